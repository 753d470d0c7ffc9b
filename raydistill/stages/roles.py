"""Who teaches whom in a run: the teachers that a configuration asks for, the student's, those of its controls.

A teacher's name is the name of its cache of soft targets and of its figures in the report:
'ensemble' (generalist and specialists), 'seeds' (generalists of several seeds), 'generalist'.
"""

from __future__ import annotations

from raydistill.execution.jobs import Role
from raydistill.settings.config import Config
from raydistill.storage.run_folder import ORIGIN

STUDENT = "student"
TEACHER_OF_KIND = {"specialists": "ensemble", "seeds": "seeds", "generalist": "generalist"}


def has_specialists(config: Config) -> bool:
    """Whether groups are found and specialists trained."""
    return config.teacher.kind == "specialists"


def has_seeds(config: Config) -> bool:
    """Whether generalists of other seeds are trained."""
    return config.teacher.seeds > 0


def wants_stage(config: Config, stage: str) -> bool:
    """Whether the run has such a stage: no groups and specialists for other teachers, no seeds where none are asked."""
    if stage in ("confusion", "groups", "specialists"):
        return has_specialists(config)
    if stage == ORIGIN:
        return config.grow_from is not None
    if stage == "seeds":
        return has_seeds(config)
    return stage != "ensemble" or has_specialists(config) or has_seeds(config)


def count_workers(config: Config) -> dict[Role, int]:
    """Processes of a job, for each role of which the run has jobs."""
    specialists: dict[Role, int] = {"specialist": config.specialists.workers} if has_specialists(config) else {}
    return {"generalist": config.generalist.workers, **specialists, "trial": 1, "student": 1}


def student_teacher(config: Config) -> str:
    """Name of the student's teacher."""
    return TEACHER_OF_KIND[config.teacher.kind]


def list_teachers(config: Config) -> list[str]:
    """Names of all teachers whose soft targets are cached, the student's first."""
    asked = {"ensemble": has_specialists(config), "seeds": has_seeds(config), "generalist": True}
    return sorted((name for name, there in asked.items() if there), key=lambda name: name != student_teacher(config))


def list_controls(config: Config) -> dict[str, str | None]:
    """The student's controls, and the teacher of each; None: labels only. Empty where none are asked for."""
    if not config.student.controls:
        return {}
    others = {f"{teacher}_targets": teacher for teacher in list_teachers(config)[1:]}
    controls: dict[str, str | None] = {"labels_only": None}
    return controls | dict(sorted(others.items()))


def list_students(config: Config) -> dict[str, str | None]:
    """The student and its controls, and the teacher of each."""
    return {STUDENT: student_teacher(config), **list_controls(config)}
