"""raydistill: a generalist, specialists for the classes that it confuses, and one student that knows what they know.

Shapes, everywhere: N examples, K classes, M specialists, G classes of a group. Log-probabilities are in nats.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from raydistill.version import __version__

if TYPE_CHECKING:
    from raydistill.classifier import DistilledClassifier
    from raydistill.deployment.exported import load_exported
    from raydistill.deployment.loading import load_ensemble, load_student, load_teacher
    from raydistill.method.ensemble import solve_ensemble
    from raydistill.method.groups import group_classes
    from raydistill.method.targets import SoftTargets
    from raydistill.parts import (
        choose_temperature,
        combine_teachers,
        confusion_affinity,
        distil_student,
        train_classifier,
        train_specialist,
    )
    from raydistill.run import Run
    from raydistill.training.losses import distillation_loss

__all__ = [
    "DistilledClassifier",
    "Run",
    "SoftTargets",
    "__version__",
    "choose_temperature",
    "combine_teachers",
    "confusion_affinity",
    "distil_student",
    "distillation_loss",
    "group_classes",
    "load_ensemble",
    "load_exported",
    "load_student",
    "load_teacher",
    "solve_ensemble",
    "train_classifier",
    "train_specialist",
]

_HOMES = {
    "DistilledClassifier": "classifier",
    "Run": "run",
    "SoftTargets": "method.targets",
    "choose_temperature": "parts",
    "combine_teachers": "parts",
    "confusion_affinity": "parts",
    "distil_student": "parts",
    "distillation_loss": "training.losses",
    "group_classes": "method.groups",
    "load_ensemble": "deployment.loading",
    "load_exported": "deployment.exported",
    "load_student": "deployment.loading",
    "load_teacher": "deployment.loading",
    "solve_ensemble": "method.ensemble",
    "train_classifier": "parts",
    "train_specialist": "parts",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import raydistill` alone loads neither torch nor ray."""
    if name not in _HOMES:
        raise AttributeError(f"module 'raydistill' has no attribute {name!r}")
    return getattr(importlib.import_module(f"raydistill.{_HOMES[name]}"), name)
