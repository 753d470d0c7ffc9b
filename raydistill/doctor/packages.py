"""Packages: whether what raydistill asks for is there, in a version that it takes, and can be imported.

Comes in: what is installed. Goes out: findings. Version numbers come from the packages' metadata, without importing
them; only packages that are known to break beside each other are imported.
"""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version

from raydistill.doctor.finding import Finding
from raydistill.errors import describe_in_line
from raydistill.version import __version__

SHOWN = ("torch", "ray", "numpy", "scikit-learn", "numba")
BOUND_TO_TORCH = ("torchvision", "timm")
OLDEST_PYTHON = (3, 11)
FindVersion = Callable[[str], str]


def check_python() -> Finding:
    """The interpreter."""
    text = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        return Finding("python", "fail", text, f"use Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")
    return Finding("python", "ok", text)


def check_required(find_version: FindVersion = version) -> list[Finding]:
    """What raydistill cannot do without: a line for all that is right, one for each that is not."""
    wrong = [finding for line in list_required("") if (finding := _check_line(line, "", find_version))]
    shown = ", ".join(f"{name} {found}" for name in SHOWN if (found := _find(name, find_version)))
    return [Finding("packages", "ok", f"raydistill {__version__}, {shown}"), *wrong]


def check_extras(find_version: FindVersion = version) -> list[Finding]:
    """The extras: which are installed; which are not, and how to get them; one with a wrong version is a warning."""
    there, missing, wrong = [], [], []
    for extra in list_extras():
        lines = list_required(extra)
        absent = [line for line in lines if not _find(_parse(line).name, find_version)]
        if absent:
            missing.append(extra)
            continue
        there.append(extra)
        wrong += [finding for line in lines if (finding := _check_line(line, extra, find_version))]
    findings = [Finding("extras", "ok", f"installed: {', '.join(there) or 'none'}")]
    if missing:
        names = ",".join(missing)
        text = f"not installed: {', '.join(missing)}; what needs one asks for it"
        findings.append(Finding("extras", "ok", text, f"pip install 'raydistill[{names}]', if wanted"))
    return findings + wrong


def check_imports(load: Callable[[str], object] = importlib.import_module) -> list[Finding]:
    """Whether packages that are built for one version of torch can be imported beside the one that is here."""
    findings = []
    for name in BOUND_TO_TORCH:
        if not _find(name, version):
            continue
        try:
            load(name)
        except Exception as error:  # a mismatch shows as any of ImportError, RuntimeError, AttributeError, OSError
            reason = describe_in_line(error)[:160]
            findings.append(
                Finding(
                    name,
                    "warn",
                    f"{version(name)} cannot be imported beside torch {version('torch')} ({reason})",
                    f"pip install --upgrade {name} torch, from the same index; or pip uninstall {name}",
                )
            )
        else:
            findings.append(Finding(name, "ok", f"{version(name)}, beside torch {version('torch')}"))
    return findings


def list_extras() -> list[str]:
    """Names of the extras but that of developers."""
    extras = {_extra_of(line) for line in requires("raydistill") or []}
    return sorted(extras - {"", "dev"})


def list_required(extra: str) -> list[str]:
    """What an extra asks for; '': what raydistill itself does."""
    return [line for line in requires("raydistill") or [] if _extra_of(line) == extra]


def _extra_of(line: str) -> str:
    return line.partition("extra ==")[2].strip().strip("\"'")


def _parse(line: str):  # type: ignore[no-untyped-def]
    from packaging.requirements import Requirement

    return Requirement(line.partition(";")[0])


def _find(name: str, find_version: FindVersion) -> str | None:
    try:
        return find_version(name)
    except PackageNotFoundError:
        return None


def _check_line(line: str, extra: str, find_version: FindVersion) -> Finding | None:
    """What is wrong with one required package, if anything."""
    wanted = _parse(line)
    found = _find(wanted.name, find_version)
    remedy = f"pip install '{wanted}'"
    if found is None:
        return Finding(wanted.name, "fail", "missing", remedy)
    if not wanted.specifier.contains(found, prereleases=True):
        text = f"{found}, and {f'raydistill[{extra}]' if extra else 'raydistill'} asks for {wanted.specifier}"
        return Finding(wanted.name, "warn" if extra else "fail", text, remedy)
    return None
