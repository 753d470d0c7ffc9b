"""What all sections of settings share: their base, the names of their fields, the one line that a mistake gets.

Comes in: a YAML file, pydantic's complaint. Goes out: a mapping, or text that names the field and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from raydistill.errors import ConfigError


class Section(BaseModel):
    """Base of all sections: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a YAML mapping of settings. Raises ConfigError if the file is missing, empty or not a mapping."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: cannot read {str(path)!r} ({error}); give an existing YAML file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config: {str(path)!r} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(
            f"config: {str(path)!r} must hold a mapping such as 'data: glyphs', not {type(values).__name__}"
        )
    return values


def list_fields(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all settings of a section and of those within it, such as 'search.trials'."""
    names: list[str] = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += list_fields(inner, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def suggest_field(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest known one, or where to find them all."""
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not nearest:  # a right name under the wrong section
        nearest = [other for other in known if other.rpartition(".")[2] == name.rpartition(".")[2]][:1]
    return f"did you mean {nearest[0]!r}?" if nearest else "see raydistill run --help for all settings"


def describe_validation_error(error: ValidationError, root: type[BaseModel]) -> str:
    """The first problem in one line, and how many more there are. root: the section that was validated."""
    problems = error.errors()
    first = problems[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = list_fields(root)
        sections = [field.rpartition(".")[0] for field in known]
        text = f"{name}: unknown setting; {suggest_field(name, known + sections)}"
    elif first["type"] == "missing":
        text = f"{name}: missing; give --{name.replace('_', '-')} or put it into the config file"
    else:
        text = f"{name}: {first['input']!r} is not allowed: {_lower_first(first['msg'])}"
    return text + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _lower_first(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]
