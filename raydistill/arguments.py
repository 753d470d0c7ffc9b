"""Keyword arguments of Python as settings: sections as dicts or as their own objects, models as names or functions.

Comes in: what was given to `raydistill.Run`. Goes out: a mapping for `build_config`, whose errors are the command
line's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from raydistill.errors import ConfigError

ModelLike = str | Callable[..., Any]
"""mlp, cnn, 'package.module:function', or that function itself."""


def gather_settings(
    settings: Mapping[str, Any], *, data: str, run_dir: Path | str, model: ModelLike | None, student: Any
) -> dict[str, Any]:
    """One nested mapping of settings. student: the student's model, or its section.

    Raises ConfigError for a model that is given twice, or a function that other processes cannot import.
    """
    values = {name: to_plain(value) for name, value in settings.items()}
    for name in ("data", "run_dir"):
        if name in values:
            raise ConfigError(f"{name}: given twice; leave it out of the settings")
    values |= {"data": data, "run_dir": run_dir}
    if isinstance(student, Mapping | BaseModel):
        values["student"] = to_plain(student)
    elif student is not None:
        values["student"] = {"model": name_model(student)}
    if model is not None:
        _set_model(values, name_model(model))
    return values


def to_plain(value: Any) -> Any:
    """Sections as mappings of what was set in them; models in mappings by their names."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, Mapping):
        return {
            name: name_model(inner) if name == "model" and callable(inner) else to_plain(inner)
            for name, inner in value.items()
        }
    return value


def name_model(model: Any) -> Any:
    """'package.module:function' of a function. Raises ConfigError where that does not lead back to it."""
    if isinstance(model, str) or not callable(model):
        return model
    module, name = getattr(model, "__module__", None), getattr(model, "__qualname__", repr(model))
    try:
        found = None if module in (None, "__main__") else getattr(importlib.import_module(str(module)), name, None)
    except ImportError:
        found = None
    if found is not model:
        raise ConfigError(
            f"model: {name!r} cannot be imported from {module!r} by other processes, and by whoever loads the student"
            f" later; put it into a file, for example models.py, and give 'models:{name.rpartition('.')[2]}'"
        )
    return f"{module}:{name}"


def _set_model(values: dict[str, Any], model: Any) -> None:
    section = values.get("generalist", {})
    if not isinstance(section, Mapping):
        return  # build_config tells
    if section.get("model", model) != model:
        raise ConfigError(f"model: {model!r}, but generalist.model is {section['model']!r}; give one of them")
    values["generalist"] = {**section, "model": model}
