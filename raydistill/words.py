"""Lists of names in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def join_words(words: Sequence[str]) -> str:
    """'a, b and c'."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def list_some(names: Iterable[object], most: int) -> str:
    """'a, b, c', or, where there are more than so many, 'a, b, c and 7 more'."""
    told = [str(name) for name in names]
    more = f" and {len(told) - most:,} more" if len(told) > most else ""
    return ", ".join(told[:most]) + more
