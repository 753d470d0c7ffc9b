"""permutation.py: every number once, in an order that keys decide and that looks random."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, kstest

from raydistill.training.permutation import permute


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 65_537, 99_991])
def test_each_number_comes_once(size):
    assert torch.equal(permute(torch.arange(size), size, 7).sort().values, torch.arange(size))


def test_each_number_may_have_its_own_size_and_key():
    sizes, keys = torch.tensor([5, 1, 300]), torch.tensor([11, 12, 13])
    which = torch.repeat_interleave(torch.arange(3), sizes)
    numbers = torch.cat([torch.arange(size) for size in sizes.tolist()])
    places = permute(numbers, sizes[which], keys[which])
    for index in range(3):
        alone = permute(torch.arange(int(sizes[index])), int(sizes[index]), int(keys[index]))
        assert torch.equal(places[which == index], alone)


def test_place_and_number_are_independent():
    size, parts = 100_003, 20
    counts = np.zeros((parts, parts))
    for key in range(1 << 40, (1 << 40) + 4):
        places = permute(torch.arange(size), size, key).numpy()
        np.add.at(counts, (np.arange(size) * parts // size, places * parts // size), 1)
    assert 1e-4 < chi2_contingency(counts).pvalue < 1 - 1e-4


def test_neighbours_are_torn_apart():
    size = 100_003
    steps = (permute(torch.arange(size), size, 3).diff() % size).numpy()
    assert kstest(steps / size, "uniform").pvalue > 1e-4


def test_other_keys_give_unrelated_orders():
    first, second = (permute(torch.arange(50_000), 50_000, key) for key in (5, 6))
    assert int((first == second).sum()) < 12  # of 50,000, one is expected
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
