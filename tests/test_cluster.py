"""The cluster's section: a role's own needs over those of every job, and the line that a bad one gets."""

import pytest

from raydistill.commands.launch import open_executor
from raydistill.errors import ConfigError
from raydistill.settings.cluster import ClusterConfig, NeedsConfig
from raydistill.settings.config import build_config
from raydistill.stages.roles import count_workers
from raydistill.storage.run_folder import RunFolder

BASE = {"data": "digits", "run_dir": "/tmp/x"}


def cluster(**sections) -> ClusterConfig:
    return build_config({**BASE, "cluster": sections}).cluster


def test_a_role_has_the_needs_of_every_job():
    settings = cluster(needs={"cpus": 2, "gpus": 0.5})
    for role in ("generalist", "specialist", "trial", "student", None):
        assert settings.needs_of(role) == NeedsConfig(cpus=2, gpus=0.5)


def test_its_own_section_decides_field_by_field():
    settings = cluster(
        needs={"cpus": 2, "gpus": 1, "custom": {"highmem": 1}},
        trial={"gpus": 0},
        student={"memory_gb": 8, "accelerator": "H100", "custom": {"fast": 2}},
    )
    assert settings.needs_of("trial") == NeedsConfig(cpus=2, gpus=0, custom={"highmem": 1})
    assert settings.needs_of("student") == NeedsConfig(
        cpus=2, gpus=1, custom={"fast": 2}, memory_gb=8, accelerator="H100"
    )
    assert settings.needs_of("specialist") == settings.needs
    assert settings.name_of("trial", "gpus") == "cluster.trial.gpus"
    assert settings.name_of("trial", "cpus") == "cluster.needs.cpus"
    assert settings.name_of(None, "cpus") == "cluster.needs.cpus"


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        ({"cpus": 0}, r"cluster.needs.cpus: 0 is not allowed"),
        ({"gpus": -1}, r"cluster.needs.gpus: -1 is not allowed"),
        ({"gpus": 1.5}, r"cluster.needs.gpus: 1.5 is not allowed: give a whole number, or a fraction below 1"),
        ({"memory_gb": "much"}, r"cluster.needs.memory_gb: 'much' is not allowed"),
        ({"custom": {"GPU": 1}}, r"cluster.needs.custom: .*'GPU' is no custom resource; give cpus, gpus"),
        ({"custom": {"accelerator_type:T4": 1}}, r"cluster.needs.custom: .*accelerator instead"),
        ({"custom": {"fast": 0}}, r"cluster.needs.custom: .*'fast' needs an amount above 0"),
        ({"accelerator": ""}, r"cluster.needs.accelerator: '' is not allowed"),
        ({"gpu": 1}, r"cluster.needs.gpu: unknown setting; did you mean 'cluster.needs.gpus'"),
    ],
)
def test_mistakes_are_one_line(needs, told):
    with pytest.raises(ConfigError, match=told) as raised:
        cluster(needs=needs)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("section", ["generalist", "specialists"])
def test_several_workers_need_ray(section, tmp_path):
    config = build_config({**BASE, section: {"workers": 2}, "cluster": {"backend": "none"}})
    with pytest.raises(ConfigError, match=rf"^{section}.workers: 2 need Ray; take 1, or --cluster.backend ray$"):
        open_executor(config, RunFolder(tmp_path), verbose=False, note=print)


def test_only_roles_that_a_run_has_are_checked():
    config = build_config({**BASE, "specialists": {"workers": 3}})
    assert count_workers(config) == {"generalist": 1, "specialist": 3, "trial": 1, "student": 1}
    alone = build_config({**BASE, "teacher": {"kind": "generalist"}, "generalist": {"workers": 2}})
    assert count_workers(alone) == {"generalist": 2, "trial": 1, "student": 1}
