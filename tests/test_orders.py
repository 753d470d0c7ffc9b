"""orders.py: epochs that are computed a part at a time, against counts; and what memory they take."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import run_quick, whole_config

from raydistill.data.arrays import Examples, open_examples, read_split
from raydistill.stages.feeding import open_by_class, weigh_by_class, write_by_class
from raydistill.stages.networks import read_training
from raydistill.storage.files import read_json
from raydistill.training import batches as module
from raydistill.training import orders
from raydistill.training.balance import Balance
from raydistill.training.batches import Batches, repeat_rows, shuffle_rows
from raydistill.training.orders import count_labels, order_by_weight, order_enriched, order_rounds, sort_by_class

COUNTS = torch.tensor([50, 0, 7, 300, 1])
SORTED = torch.arange(358) * 3 + 5  # by class
CLASS = torch.repeat_interleave(torch.arange(5), COUNTS)  # of each of them
CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def place(rows: torch.Tensor) -> torch.Tensor:
    """Places of rows in SORTED."""
    places = torch.searchsorted(SORTED, rows)
    assert torch.equal(SORTED[places], rows)
    return places


def test_rounds_have_every_row_and_a_part_of_the_last():
    order = order_rounds(SORTED, 900, generator())
    places = place(order[:])
    for first in (0, 358):
        assert torch.equal(places[first : first + 358].sort().values, torch.arange(358))
    assert len(places[716:].unique()) == 184
    assert not torch.equal(places[:358], places[358:716])
    assert torch.equal(order[100:500:3], order[:][100:500:3])


def test_short_epochs_are_drawn_as_ever():
    rows = torch.arange(1000) * 2
    assert torch.equal(shuffle_rows(rows)(generator(5)), rows[torch.randperm(1000, generator=generator(5))])


def test_epochs_differ_and_come_again(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 100)
    sample = repeat_rows(SORTED, 358)
    first, again, other = (sample(generator(seed))[:] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert int((first == other).sum()) < 12


def test_weights_decide_how_often_a_class_comes():
    weights = torch.tensor([1.0, 1.0, 8.0, 0.25, 20.0])
    rows = sort_by_class(SORTED, COUNTS, weights)
    places = place(order_by_weight(rows, 1000, generator(3))[:])
    shares = (weights * COUNTS / (weights * COUNTS).sum()).numpy()
    np.testing.assert_allclose(CLASS[places].bincount(minlength=5), 1000 * shares, atol=1.5)
    each = places.bincount(minlength=358)
    for label in (0, 2, 3, 4):
        own = each[label == CLASS]
        assert own.max() - own.min() <= 1
    over = torch.cat([order_by_weight(rows, 100, generator(seed))[:] for seed in range(100)])
    assert len(over.unique()) == 358


def test_groups_rows_come_once_and_others_at_random():
    rows = sort_by_class(SORTED, COUNTS)
    own, rest = rows.keep(torch.tensor([True, True, False, False])), rows.keep(torch.tensor([False, False, True, True]))
    drawn = []
    for seed in range(40):
        places = place(order_enriched(own, rest, 60, generator(seed), weighted=False)[:])
        inside = places < 57
        assert torch.equal(places[inside].sort().values, torch.arange(57))
        drawn.append(places[~inside])
        assert 15 < int(inside[:57].sum()) < 42  # in random order
    counts = torch.cat(drawn).bincount(minlength=358)[57:]
    assert counts.sum() == 2400
    assert ((counts - 2400 / 301).square().sum() / (2400 / 301)) < 410  # chi-square of 300 degrees, p = 3e-5


def test_a_group_may_have_no_others():
    rows = sort_by_class(SORTED, COUNTS)
    nothing = rows.keep(torch.zeros(4, dtype=torch.bool))
    assert torch.equal(order_enriched(rows, nothing, 0, generator(), weighted=False)[:].sort().values, SORTED)


def test_rows_are_sorted_by_class_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("raydistill.stages.feeding.LARGE", 10)
    monkeypatch.setattr("raydistill.stages.feeding.BLOCK_ROWS", 7)
    labels = torch.randint(-1, 4, (200,), generator=generator())
    rows = torch.arange(1, 200, 2)
    write_by_class(tmp_path, "rows", rows, labels, 4)
    found = open_by_class(tmp_path, "rows")
    expected = sorted(rows.tolist(), key=lambda row: (labels[row] % 5, row))  # -1 comes last
    assert found is not None
    assert found.tolist() == expected


def test_rows_without_labels_weigh_one():
    balance = Balance(torch.tensor([0.9, 0.1]).log(), 1.0, 1.0)
    rows = weigh_by_class(torch.arange(30), torch.tensor([18, 2]), balance)
    assert rows.counts.tolist() == [18, 2, 10]
    assert float(rows.weights[1] / rows.weights[0]) == pytest.approx(9.0)
    assert float((rows.weights * rows.counts)[:2].sum()) == pytest.approx(20.0)
    assert float(rows.weights[2]) == 1.0


def test_labels_are_counted_in_blocks(monkeypatch):
    monkeypatch.setattr(orders, "BLOCK_ROWS", 6)
    labels = torch.tensor([0, 2, 2, -1, 1] * 5)
    assert count_labels(labels, torch.arange(1, 25), 4).tolist() == [4, 5, 10, 0]


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("rank", [None, 1])
def test_batches_do_not_depend_on_the_chunk(monkeypatch, large, rank):
    if large:
        monkeypatch.setattr(module, "LARGE", 10)
    if rank is not None:
        monkeypatch.setattr(module, "worker_rank", lambda: (rank, 3))
    examples = Examples(torch.arange(500 * 16, dtype=torch.float32).view(500, 4, 4), torch.arange(500) % 5, ("a",) * 5)

    def change(batch, keys, epoch):
        assert torch.equal(keys, everything[len(seen)])
        return batch

    whole = [torch.arange(start, start + 24) for start in range(0, 480, 24)]
    everything = [keys if rank is None else keys[rank::3] for keys in whole]
    found = []
    for chunk in (1, 100, 1 << 16):
        monkeypatch.setattr(module, "CHUNK_ROWS", chunk)
        seen: list = []
        batches = Batches(examples, repeat_rows(torch.arange(500), 500), 24, 1, 7, CPU, change=change)
        for batch in batches.iterate(2):
            seen.append((batch.rows, batch.inputs))
        found.append(seen)
    assert len(found[0]) == 20
    for other in found[1:]:
        assert all(
            torch.equal(a, b) for one, two in zip(found[0], other, strict=True) for a, b in zip(one, two, strict=True)
        )


def measure(kind: str, rows: int, folder: Path) -> float:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("memory_of_an_epoch.py")), kind, str(rows), str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed is given back, no holes count
    )
    return float(json.loads(done.stdout))


@pytest.mark.parametrize(
    "kind",
    ["specialist", "student", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("generalist", "balance"))],
)
def test_memory_does_not_grow_with_the_rows(tmp_path, kind):
    few, many = (measure(kind, rows, tmp_path) for rows in (1 << 19, 1 << 21))
    assert many - few < 4e6  # a table of four bytes a row would be 6.3 MB


@pytest.mark.parametrize("sampling", ["natural", "sqrt"])
def test_a_whole_run_of_computed_orders(tmp_path, monkeypatch, sampling):
    for owner in ("training.orders", "training.batches", "data.views", "stages.feeding"):
        monkeypatch.setattr(f"raydistill.{owner}.LARGE", 50)
    config = whole_config(tmp_path / "run", balance={"prior": "equal", "sampling": sampling})
    run = run_quick(config)
    folder, labels = run.stage_folder("splits"), open_examples(run).y
    for name in ("fit", "confuse"):
        rows = open_by_class(folder, name)
        assert rows is not None
        assert torch.equal(rows.sort().values, read_split(run, name))
        assert (labels[rows].diff() >= 0).all()
    assert (run.stage_folder("targets") / "rows_by_class.npy").exists() == (sampling == "sqrt")
    teachers = read_json(run.stage_folder("ensemble") / "ensemble.json")
    student = read_training(run.student_folder("student"))["history"][-1]["value"]
    assert min(teachers["generalist"]["accuracy"], teachers["ensemble"]["accuracy"], student) > 0.5
