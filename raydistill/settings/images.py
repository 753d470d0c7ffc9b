"""The images' section of the settings: what encoded images become, and how many may be corrupt.

Comes in: a mapping. Goes out: an `ImagesConfig`, for sources whose images are decoded (images:, parquet:, hf:,
torchvision:); `raydistill ingest` has flags of its own for the same.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from raydistill.errors import ConfigError
from raydistill.settings.sections import Section

DEFAULT_LIMIT = 0.01


class ImagesConfig(Section):
    """What encoded images become (for --data images:, parquet:, hf: and torchvision:)."""

    size: int | None = Field(None, ge=1, le=4096)
    """height and width that every image gets, in pixels; left out: that of square images that are all alike, else their
    median shorter side down to a multiple of 8, and 64 at most"""
    channels: Literal[1, 3] | None = None
    """1: grey, 3: RGB; left out: grey where all images are"""
    resize: Literal["crop", "pad", "stretch"] = "crop"
    """crop: the middle of the longer side; pad: all of it, with black beside; stretch: out of proportion"""
    max_corrupt: int | float = Field(DEFAULT_LIMIT, ge=0)
    """records that cannot be read and are left out, at most: a number such as 10, or a share such as 0.01 or 1%.
    Changing it redoes nothing that is decoded"""

    @field_validator("channels", mode="before")
    @classmethod
    def _read_channels(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("max_corrupt", mode="before")
    @classmethod
    def _read_limit(cls, value: Any) -> Any:
        try:
            return read_limit(value) if isinstance(value, str) else value
        except ConfigError as error:
            raise ValueError(str(error).partition("allowed; ")[2]) from None

    @field_validator("max_corrupt")
    @classmethod
    def _check_limit(cls, value: int | float) -> int | float:
        if isinstance(value, float) and value > 1:
            raise ValueError("give a number of records such as 10, or a share such as 0.01 or 1%")
        return value


def read_limit(text: str) -> int | float:
    """A number of records, or a share of them. Raises ConfigError for anything else."""
    try:
        if text.isdecimal():
            return int(text)
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(
            f"max_corrupt: {text!r} is not allowed; give a number of records such as 10, or a share such as 0.01 or 1%"
        )
    return share
