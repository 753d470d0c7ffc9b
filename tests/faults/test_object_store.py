"""A run whose folder is in an object store, on three raylets with addresses and caches of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from builders import list_results, run_quick
from object_store import BUCKET, run_object_store

from benchmarks.raylets import Raylets
from raydistill.storage.run_folder import RunFolder

from .cluster import Driver
from .drivers import slow_config


@pytest.fixture
def raylets() -> Iterator[Raylets]:
    """A head and two nodes, which reach the store by the environment that they start with."""
    tests = Path(__file__).parent.parent
    with run_object_store():
        cluster = Raylets(2, [tests, tests.parent])
        yield cluster
        cluster.close()


@pytest.mark.slow
def test_a_node_killed_with_the_run_folder_in_a_store(
    raylets: Raylets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student is that of a run in one process and a folder, and what the killed node had finished is kept."""
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "cache"))
    uri, store = f"{BUCKET}/cluster", fsspec.filesystem("s3", use_listings_cache=False)
    finished = f"{uri}/06_specialists/*/training.json"
    driver = Driver(raylets, "run", {"run_dir": uri, "until": "report"})
    driver.wait_for(lambda: store.glob(finished))
    first = {path: store.info(path)["LastModified"] for path in store.glob(finished)}
    raylets.kill(raylets.nodes[0])
    driver.finish(240)
    assert {path: store.info(path)["LastModified"] for path in first} == first
    assert list_results(RunFolder(uri)) == list_results(run_quick(slow_config(tmp_path / "run")))
    caches = sorted(raylets.temporary.glob("cache-*/cluster-*/06_specialists"))
    assert len(caches) == 2  # each node worked in a copy of its own
