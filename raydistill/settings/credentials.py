"""Credentials are no settings: those go into manifests, reports and logs.

Comes in: settings, or a text for people. Goes out: a ConfigError that does not repeat the secret; the text without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydistill.errors import ConfigError

_SECRET = r"(?:password|passwd|secret|credentials?|signature|(?:api|access|secret|private|account)[_-]?key)"
_TOKEN = r"(?:(?:auth|api|access|bearer|session|security|hf)[_-])?token"
_USER = re.compile(r"([a-z][\w+.-]*:/(?:/|(?=[^/?#\s:'\"]+:)))[^/?#\s'\"]+@", re.IGNORECASE)  # s3://key:secret@bucket
_QUERY = re.compile(rf"([?&][\w.-]*(?:{_SECRET}|token|sig)=)[^&#\s'\"]+", re.IGNORECASE)  # https://…?X-Amz-Signature=…
_NAME = re.compile(rf"(?:^|[_-]){_SECRET}$|^{_TOKEN}$", re.IGNORECASE)  # db_password, hf_token; not pad_token
HIDDEN = "***"


def hide_credentials(text: str) -> str:
    """The text without user names and passwords of URIs, and without what signs them."""
    return _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", text))


def check_credentials(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError if a setting holds credentials: in a URI, or as text under a name such as 'hf_token'."""
    for name, value in _list_texts(settings, ""):
        hidden = hide_credentials(value)
        if _NAME.search(name.rpartition(".")[2]):
            hidden = HIDDEN
        if hidden != value:
            raise ConfigError(
                f"{name}: {hidden!r} holds credentials, and settings are written into the run; leave them to the"
                " environment (AWS_ACCESS_KEY_ID, HF_TOKEN and the like) or to the machine's role"
            )


def _list_texts(value: Any, name: str) -> list[tuple[str, str]]:
    """All texts of nested settings with their dotted names."""
    if isinstance(value, Mapping):
        return [found for key, inner in value.items() for found in _list_texts(inner, f"{name}.{key}".lstrip("."))]
    if isinstance(value, list | tuple):
        return [found for inner in value for found in _list_texts(inner, name)]
    if isinstance(value, Path):  # which takes the second slash from s3://
        return [(name, re.sub(r"^(\w+):/(?=[^/])", r"\1://", str(value)))]
    return [(name, value)] if isinstance(value, str) else []
