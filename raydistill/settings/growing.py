"""The section of settings for runs that grow from another."""

from __future__ import annotations

from pydantic import Field

from raydistill.settings.sections import Section


class GrowConfig(Section):
    """How a run grows from another (only with --grow-from)."""

    passes: float = Field(0.5, gt=0, le=1)
    """share of its passes that a network has which starts from the old run's weights"""
    changed: float = Field(0.25, ge=0)
    """a specialist whose group gained no class is kept while its training examples, or its group's share of the known
    classes' examples, changed by no more than this share; 0: any change trains it anew"""
