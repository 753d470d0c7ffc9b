"""One cluster for all tests of faults; it starts when a test first asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.raylets import Raylets

NODES = 2


@pytest.fixture(scope="session")
def shared() -> Iterator[Raylets]:
    tests = Path(__file__).parent.parent
    cluster = Raylets(NODES, [tests, tests.parent])
    yield cluster
    cluster.close()


@pytest.fixture
def raylets(shared: Raylets) -> Raylets:
    """Two nodes with a GPU each, besides the head, whatever the last test did."""
    shared.restore(NODES)
    return shared
