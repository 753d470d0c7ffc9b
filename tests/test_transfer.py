"""The transfer set: by class and by share."""

import pytest
import torch

from raydistill.data.transfer import choose_transfer_rows
from raydistill.errors import ConfigError
from raydistill.settings.config import TransferConfig
from raydistill.stages import student as student_stage
from raydistill.stages.student import find_places

NAMES = ("a", "b", "c")
ROWS = torch.arange(100, 400)
LABELS = torch.arange(300) % 3


def choose(seed=0, labels=LABELS, **settings):
    return choose_transfer_rows(ROWS[: len(labels)], labels, TransferConfig(**settings), NAMES, seed)


def test_all_rows_by_default():
    assert torch.equal(choose(), ROWS)


@pytest.mark.parametrize(
    ("settings", "classes"), [({"only": ["c", "a"]}, {0, 2}), ({"without": ["b"]}, {0, 2}), ({"only": ["b"]}, {1})]
)
def test_classes(settings, classes):
    expected = [row for row, label in zip(ROWS.tolist(), LABELS.tolist(), strict=True) if label in classes]
    assert choose(**settings).tolist() == expected


def test_a_share_is_the_same_for_every_class_and_follows_the_seed():
    chosen = choose(share=0.1)
    assert LABELS[chosen - 100].bincount().tolist() == [10, 10, 10]
    assert torch.equal(chosen, choose(share=0.1))
    assert not torch.equal(chosen, choose(share=0.1, seed=1))
    assert torch.equal(chosen, chosen.sort().values)


def test_a_small_share_leaves_one_of_each_class():
    assert LABELS[choose(share=0.001) - 100].sort().values.tolist() == [0, 1, 2]


def test_share_and_classes_together():
    assert LABELS[choose(share=0.1, without=["a"]) - 100].bincount().tolist() == [0, 10, 10]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"only": ["d"]}, "transfer.only: 'd' is not a class; give some of a, b, c"),
        ({"without": ["a", "x"]}, "transfer.without: 'x' is not a class"),
        ({"without": ["a", "b", "c"]}, "transfer.without: no class is left"),
    ],
)
def test_wrong_classes_are_told(settings, told):
    with pytest.raises(ConfigError, match=told):
        choose(**settings)


@pytest.mark.parametrize("large", [1 << 18, 10], ids=["table", "search"])
def test_places_of_rows_in_the_transfer_set(monkeypatch, large):
    monkeypatch.setattr(student_stage, "LARGE", large)
    rows = torch.tensor([0, 3, 4, 17, 250])
    assert find_places(rows)(torch.tensor([17, 0, 250, 3, 3, 4])).tolist() == [3, 0, 4, 1, 1, 2]
