"""What the package shows: its public names, and which heavy modules an import loads."""

import subprocess
import sys
from pathlib import Path

import pytest

import raydistill

PACKAGE = Path(raydistill.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if "on_ray" not in path.parts and path.stem not in ("__init__", "__main__")
)


def loaded_by(code):
    program = f"{code}\nimport sys; print(' '.join(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_public_names():
    assert raydistill.__all__ == [
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
    for name in raydistill.__all__:
        assert getattr(raydistill, name) is not None


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="teach"):
        _ = raydistill.teach


def test_importing_the_package_loads_nothing_heavy():
    assert not {"torch", "ray", "numpy", "sklearn"} & loaded_by("import raydistill")


def test_importing_the_command_line_loads_nothing_heavy():
    assert not {"torch", "ray", "sklearn"} & loaded_by("import raydistill.commands.cli")


def test_no_module_outside_on_ray_loads_ray():
    """One process for all: whichever loads it fails the test, and the bisection is a person's."""
    assert "ray" not in loaded_by("\n".join(f"import {module}" for module in MODULES))
