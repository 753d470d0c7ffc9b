"""cluster.yaml as `ray up` reads it, without a cloud."""

import copy
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = yaml.safe_load((Path(__file__).parent.parent / "cluster.yaml").read_text())


def test_ray_accepts_it():
    config = prepare_config(copy.deepcopy(CLUSTER))
    validate_config(config)
    assert config["available_node_types"]["head"]["max_workers"] == 0
    assert config["max_workers"] >= config["available_node_types"]["gpu_worker"]["max_workers"]


@pytest.mark.parametrize(
    "path",
    [
        ("max_worker",),
        ("auth", "ssh_usr"),
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


def test_every_node_is_protected_by_the_token():
    assert "~/.ray/auth_token" in CLUSTER["file_mounts"]
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in CLUSTER[name] if "ray start" in command]
        assert len(starts) == 1
        assert "RAY_AUTH_MODE=token" in starts[0]


def test_the_run_folder_of_jobs_is_on_shared_storage():
    mounted = next(command for command in CLUSTER["setup_commands"] if "mount -t" in command)
    assert mounted.rstrip(")").endswith(" /shared")
    assert any("RAYDISTILL_HOME=/shared " in command for command in CLUSTER["head_start_ray_commands"])
