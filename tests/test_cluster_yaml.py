"""cluster.yaml as `ray up` reads it, and docs/cluster.md's fields for Google Cloud, without a cloud."""

import copy
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "cluster.yaml").read_text()
CLUSTER = yaml.safe_load(TEXT)
WORKER = CLUSTER["available_node_types"]["gpu_worker"]


def merge(base, over):
    return base | {
        name: merge(base[name], value) if isinstance(value, dict) and isinstance(base.get(name), dict) else value
        for name, value in over.items()
    }


def read_gcp():
    """cluster.yaml with the fields that docs/cluster.md has for Google Cloud; node_config is replaced as a whole."""
    page = (ROOT / "docs" / "cluster.md").read_text()
    fields = next(
        yaml.safe_load(block)
        for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
        if "guestAccelerators" in block
    )
    cluster = copy.deepcopy(CLUSTER)
    for name in fields["available_node_types"]:
        del cluster["available_node_types"][name]["node_config"]
    return merge(cluster | {"provider": {}}, fields)


@pytest.mark.parametrize("cluster", [CLUSTER, read_gcp()], ids=["aws", "gcp"])
def test_ray_accepts_it(cluster):
    config = prepare_config(copy.deepcopy(cluster))
    validate_config(config)
    assert config["available_node_types"]["head"]["max_workers"] == 0
    assert config["max_workers"] >= config["available_node_types"]["gpu_worker"]["max_workers"]


@pytest.mark.parametrize(
    "path",
    [
        ("max_worker",),
        ("auth", "ssh_usr"),
        ("provider", "security_group", "Name"),
        ("available_node_types", "head", "resource"),
        ("available_node_types", "gpu_worker", "min_worker"),
    ],
)
def test_ray_refuses_a_misspelt_key(path):
    config = copy.deepcopy(CLUSTER)
    section = config
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = 1
    with pytest.raises(jsonschema.ValidationError, match=path[-1]):
        validate_config(prepare_config(config))


def test_gpus_are_spot_and_there_only_while_there_is_work():
    assert WORKER["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert WORKER["min_workers"] == 0
    assert WORKER["max_workers"] > 0
    assert "InstanceMarketOptions" not in CLUSTER["available_node_types"]["head"]["node_config"]
    assert read_gcp()["available_node_types"]["gpu_worker"]["resources"]["GPU"] == 1


def test_every_node_is_protected_by_the_token():
    assert CLUSTER["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in CLUSTER[name] if "ray start" in command]
        assert len(starts) == 1
        assert "RAY_AUTH_MODE=token" in starts[0]


def test_nothing_but_ssh_from_one_address_is_open():
    """Ray's own default lets the world at port 22."""
    (rule,) = CLUSTER["provider"]["security_group"]["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
    assert all(addresses["CidrIp"].endswith("/32") for addresses in rule["IpRanges"])
    start = next(command for command in CLUSTER["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in start


def test_relative_run_folders_of_jobs_are_on_shared_storage():
    start = next(command for command in CLUSTER["head_start_ray_commands"] if "ray start" in command)
    assert re.search(r"\bRAYDISTILL_HOME=s3://\S+ ", start)
    assert any("head -1)[s3]" in command for command in CLUSTER["setup_commands"])


def test_it_holds_no_secret():
    assert not re.search(r"AKIA|aws_secret|BEGIN [A-Z ]*PRIVATE KEY|[0-9a-f]{64}", TEXT, re.IGNORECASE)
