"""Ingest on Ray Data: the same files as in one process, whatever the parallelism, and its errors."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raydistill.commands.ingest import ingest
from raydistill.data import ingest as blocks_module
from raydistill.data.images import ImageForm
from raydistill.data.ingest import Block, Mark, Work
from raydistill.data.ingestion import Ingested, run_here
from raydistill.data.wanted import Wanted
from raydistill.display import Silent
from raydistill.errors import DataError
from raydistill.on_ray import executor as executor_module
from raydistill.on_ray.executor import RayExecutor
from raydistill.on_ray.ingest import RayBlocks, deal_blocks
from raydistill.on_ray.session import RaySession
from raydistill.storage.files import read_json

NAMES = ("x.npy", "y.npy", "classes.json", "parts.json", "corrupt.json", "checksums.npy")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """90 PNGs of three classes, one of them cut short; the same bytes in one Parquet file; blocks of 8 rows."""
    monkeypatch.setattr(blocks_module, "BLOCK_ROWS", 8)
    rows: list[tuple[bytes, str]] = []
    for index in range(90):
        file, name = io.BytesIO(), "abc"[index // 30]
        pixels = np.random.default_rng(index).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        rows.append((file.getvalue()[: 200 if index == 40 else None], name))
        path = tmp_path / "images" / name / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rows[-1][0])
    table = pa.table({"image": [data for data, _ in rows], "label": [name for _, name in rows]})
    pq.write_table(table, tmp_path / "all.parquet", row_group_size=25)
    return tmp_path


def ingest_from(source: Path, output: Path, run_blocks: Any, limit: int = 1) -> Ingested:
    wanted = Wanted(str(source), ImageForm(16, 3, "crop"))
    return ingest(wanted, output, limit=limit, run_blocks=run_blocks, display=Silent())


def test_on_ray_and_in_one_process_give_the_same_files(ray_session: RaySession, source: Path) -> None:
    ingest_from(source / "images", source / "here", run_here)
    for name in ("images", "all.parquet"):
        assert ingest_from(source / name, source / f"ray_{name}", RayBlocks()).decoded == 12
        for file in NAMES:
            if name == "images" or file != "corrupt.json":  # a row of a table has another name
                assert (source / f"ray_{name}" / file).read_bytes() == (source / "here" / file).read_bytes()
    assert [entry["name"] for entry in read_json(source / "ray_all.parquet/corrupt.json")] == ["all.parquet row 40"]


def test_an_ingest_that_was_killed_goes_on_on_ray(ray_session: RaySession, source: Path) -> None:
    def stop_halfway(work: Work, blocks: Sequence[Block], on_mark: Callable[[Mark], None]) -> None:
        run_here(work, blocks[:5], on_mark)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest_from(source / "images", source / "out", stop_halfway)
    assert ingest_from(source / "images", source / "out", RayBlocks()).decoded == 7
    ingest_from(source / "images", source / "here", run_here)
    assert (source / "out/x.npy").read_bytes() == (source / "here/x.npy").read_bytes()


def test_errors_of_tasks_and_of_the_driver_are_one_line(ray_session: RaySession, source: Path) -> None:
    with pytest.raises(DataError, match=r"max_corrupt: 1 of 90 .* more than 0 \(b/040.png") as raised:
        ingest_from(source / "images", source / "out", RayBlocks(), limit=0)
    assert "\n" not in str(raised.value)
    path = source / "all.parquet"
    damaged = bytearray(path.read_bytes())
    damaged[4 : len(damaged) // 2] = bytes(len(damaged) // 2 - 4)  # the footer stays
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"source: 'all.parquet' cannot be read .*; mend or remove") as raised:
        ingest_from(path, source / "out2", RayBlocks())
    assert "\n" not in str(raised.value)


def test_blocks_are_dealt_in_runs_that_become_shorter() -> None:
    blocks = [Block(index, index, index + 1, "", ()) for index in range(1000)]
    dealt = deal_blocks(blocks, slots=8)
    sizes = [len(part) for part in dealt]
    assert [block for part in dealt for block in part] == blocks
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (16, 1)
    assert [len(part) for part in deal_blocks(blocks[:40], slots=2)] == [10, 7, 5, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert [len(part) for part in deal_blocks(blocks[:1], slots=2)] == [1]


def test_a_pipelines_executor_does_blocks(ray_session: RaySession, source: Path) -> None:
    executor = RayExecutor(source / "scratch")
    ingest_from(source / "images", source / "here", run_here)
    assert ingest_from(source / "images", source / "out", executor.run_blocks).decoded == 12
    executor.close()
    assert (source / "out/x.npy").read_bytes() == (source / "here/x.npy").read_bytes()


def test_few_blocks_start_no_ray(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "finds_cluster", lambda address: False)
    monkeypatch.setattr(executor_module, "start_ray", lambda *given: 1 / 0)
    executor = RayExecutor(source / "scratch")
    assert ingest_from(source / "images", source / "out", executor.run_blocks).decoded == 12
    monkeypatch.setattr(executor_module, "FEW_BLOCKS", 11)
    with pytest.raises(ZeroDivisionError):
        ingest_from(source / "images", source / "more", executor.run_blocks)
