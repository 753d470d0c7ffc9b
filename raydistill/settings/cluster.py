"""The cluster's section of the settings: where the work runs, and what each kind of job needs of a node.

Comes in: settings. Goes out: the needs of a role, its own over those of every job. Results never follow from them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from raydistill.execution.jobs import Role
from raydistill.settings.sections import Section

WORKERS = {"generalist": "generalist.workers", "specialist": "specialists.workers"}
"""The setting that gives a role's jobs several processes, for roles that have one."""


class NeedsConfig(Section):
    """What one process of a job reserves on its node."""

    cpus: float | None = Field(None, gt=0)
    """CPU cores, which are also its threads; left out: 1"""
    gpus: float | None = Field(None, ge=0)
    """GPUs, a fraction shares one; left out: 1 where a node has one beside the other needs, else 0"""
    memory_gb: float | None = Field(None, gt=0)
    """gigabytes (1e9 bytes) of memory that Ray counts as taken; left out: none"""
    custom: dict[str, float] | None = None
    """custom resources of the nodes, for example {highmem: 1}; left out: none"""
    accelerator: str | None = Field(None, min_length=1)
    """type of accelerator in Ray's words, for example A10G or H100; left out: any"""

    @field_validator("gpus")
    @classmethod
    def _check_gpus(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError("give a whole number, or a fraction below 1, which shares a GPU")
        return gpus

    @field_validator("custom")
    @classmethod
    def _check_custom(cls, custom: dict[str, float] | None) -> dict[str, float] | None:
        for name, amount in (custom or {}).items():
            if name in ("CPU", "GPU", "memory", "object_store_memory") or ":" in name or not name:
                raise ValueError(f"{name!r} is no custom resource; give cpus, gpus, memory_gb or accelerator instead")
            if not amount > 0:
                raise ValueError(f"{name!r} needs an amount above 0")
        return custom


class ClusterConfig(Section):
    """Where the work runs."""

    backend: Literal["ray", "none"] = "ray"
    """ray: fan out over Ray; none: everything in this process, in turn"""
    address: str | None = None
    """address of a Ray cluster to join; left out: RAY_ADDRESS if set, else a private Ray on this machine"""
    needs: NeedsConfig = NeedsConfig()
    generalist: NeedsConfig = NeedsConfig()
    specialist: NeedsConfig = NeedsConfig()
    trial: NeedsConfig = NeedsConfig()
    student: NeedsConfig = NeedsConfig()

    def needs_of(self, role: Role | None) -> NeedsConfig:
        """What a job of this role needs: its own section, field by field over that of every job (None: that alone)."""
        own = {} if role is None else vars(getattr(self, role))
        given = {name: value for name, value in own.items() if value is not None}
        return NeedsConfig.model_validate({**vars(self.needs), **given})

    def name_of(self, role: Role | None, field: str) -> str:
        """Dotted name of the setting that decides this need of this role."""
        own = role is not None and getattr(getattr(self, role), field) is not None
        return f"cluster.{role if own else 'needs'}.{field}"
