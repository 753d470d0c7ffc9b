"""jobs/rayjob.yaml against KubeRay's own schema, without a cluster, and against the rest of the project."""

import copy
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.runtime_env import RuntimeEnv

from raydistill.commands.flags import read_settings
from raydistill.version import __version__

HERE = Path(__file__).parent
CLAIM, RAYJOB = yaml.safe_load_all((HERE.parent / "jobs" / "rayjob.yaml").read_text())
DOCKERFILE = (HERE.parent / "jobs" / "Dockerfile").read_text()


def close(schema):
    """Kubernetes drops keys that a schema does not know; here they are refused."""
    if isinstance(schema, dict):
        if "properties" in schema and isinstance(schema.get("type"), str):
            schema["additionalProperties"] = False
        for inner in schema.values():
            close(inner)
    return schema


VALIDATOR = jsonschema.Draft202012Validator(close(yaml.safe_load((HERE / "kuberay_rayjob_schema.yaml").read_text())))
CLUSTER = RAYJOB["spec"]["rayClusterSpec"]
WORKERS = CLUSTER["workerGroupSpecs"][0]
PODS = [CLUSTER["headGroupSpec"]["template"]["spec"], WORKERS["template"]["spec"]]


def test_kuberay_accepts_it():
    VALIDATOR.check_schema(VALIDATOR.schema)
    VALIDATOR.validate(RAYJOB)
    assert (RAYJOB["apiVersion"], RAYJOB["kind"]) == ("ray.io/v1", "RayJob")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "shutDownAfterJobFinishes"), True),
        (("spec", "activeDeadlineSeconds"), "1d"),
        (("spec", "runtimeEnvYAML"), {"env_vars": {}}),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "password"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "nodeselector"), {}),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "volumemounts"), []),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplica"), 3),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "volumes", 0, "pvc"), {}),
    ],
)
def test_a_misspelt_key_or_a_wrong_type_is_refused(path, value):
    changed = copy.deepcopy(RAYJOB)
    section = changed
    for part in path[:-1]:
        section = section[part]
    section[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(changed)


def test_a_missing_template_is_refused():
    changed = copy.deepcopy(RAYJOB)
    del changed["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]
    with pytest.raises(jsonschema.ValidationError, match="'template' is a required property"):
        VALIDATOR.validate(changed)


def test_every_pod_is_protected_by_a_token():
    """KubeRay demands a Ray of 2.52 or newer then, named in rayVersion."""
    assert CLUSTER["authOptions"] == {"mode": "token"}
    assert CLUSTER["rayVersion"] == ray.__version__
    assert f"FROM rayproject/ray:{ray.__version__}-py" in DOCKERFILE
    assert "secret" not in yaml.safe_dump(RAYJOB).lower()  # a token in a file that goes to version control is none


def test_all_nodes_share_the_run_folder():
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]
    home = yaml.safe_load(RAYJOB["spec"]["runtimeEnvYAML"])["env_vars"]["RAYDISTILL_HOME"]
    for pod in PODS:
        claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert claims[mounts[home]] == CLAIM["metadata"]["name"]


def test_a_lost_head_is_replaced_and_an_end_ends_all():
    spec = RAYJOB["spec"]
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["shutdownAfterJobFinishes"]
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["backoffLimit"] > 0
    assert "jobId" not in spec  # a retry with the same one would be refused
    assert CLUSTER["enableInTreeAutoscaling"]
    assert WORKERS["minReplicas"] <= WORKERS["replicas"] <= WORKERS["maxReplicas"]


def test_the_environment_is_one_that_ray_takes():
    environment = yaml.safe_load(RAYJOB["spec"]["runtimeEnvYAML"])
    assert set(environment) <= RuntimeEnv.known_fields  # it only warns of others
    assert RuntimeEnv(**environment).to_dict() == environment


def test_the_entrypoint_is_a_command_of_raydistill():
    program, command, *arguments = RAYJOB["spec"]["entrypoint"].split()
    assert (program, command) == ("raydistill", "run")
    config, _ = read_settings("run", arguments)
    assert not Path(config.run_dir).is_absolute()  # below RAYDISTILL_HOME


def test_both_groups_have_the_image_of_this_version():
    assert {pod["containers"][0]["image"].rpartition(":")[2] for pod in PODS} == {__version__}
    assert f"raydistill:{__version__}" in DOCKERFILE
