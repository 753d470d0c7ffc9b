"""A finding: one line of `raydistill doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """name: what was looked at; text: what is so; remedy: what to do, empty where there is nothing to do."""

    name: str
    status: Status
    text: str
    remedy: str = ""
