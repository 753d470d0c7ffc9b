"""Batches: whole, seeded, of a sensible size."""

import pytest
import torch
from builders import make_examples

from raydistill.training.batches import Batches, choose_batch_size, shuffle_rows
from raydistill.training.seeds import mix_seed

EXAMPLES = make_examples()
FIT = torch.arange(300)


def test_batches_are_whole_and_cover_an_epoch():
    batches = Batches(EXAMPLES, shuffle_rows(FIT), 32, 0, 7, torch.device("cpu"))
    rows = torch.cat([batch.rows for batch in batches.iterate(0)])
    assert len(rows) == batches.count_steps() * 32 == 288
    assert len(set(rows.tolist())) == 288
    assert not torch.equal(rows, torch.cat([batch.rows for batch in batches.iterate(1)]))


@pytest.mark.parametrize(
    ("rows", "size"), [(1, 16), (300, 16), (1023, 16), (1024, 32), (1078, 32), (8191, 128), (8192, 256), (10**8, 256)]
)
def test_small_data_get_small_batches(rows, size):
    assert choose_batch_size(rows) == size


def test_a_size_that_is_given_is_kept():
    given = Batches(EXAMPLES, shuffle_rows(FIT), 100, 0, 7, torch.device("cpu"))
    chosen = Batches(EXAMPLES, shuffle_rows(FIT), None, 0, 7, torch.device("cpu"))
    assert [len(batch.rows) for batch in given.iterate(0)] == [100] * 3
    assert [len(batch.rows) for batch in chosen.iterate(0)] == [16] * 18
    assert (given.count_steps(), chosen.count_steps()) == (3, 18)


def test_seeds_differ():
    seeds = {mix_seed(a, b, c) for a in range(9) for b in range(9) for c in range(9)}
    assert len(seeds) == 729
    assert all(0 <= seed < 2**63 for seed in seeds)
