"""A cluster for each module of tests; it starts when a test first asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .cluster import Raylets


@pytest.fixture(scope="module")
def shared() -> Iterator[Raylets]:
    cluster = Raylets()
    yield cluster
    cluster.close()


@pytest.fixture
def raylets(shared: Raylets) -> Raylets:
    """Two nodes with a GPU each, besides the head, whatever the last test did."""
    shared.restore()
    return shared
