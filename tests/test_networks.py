"""Trained networks on disk, and how long they train where the user does not say."""

import numpy as np
import pytest
import torch
from builders import quick_config

from raydistill.stages.networks import count_passes, train_once, write_network
from raydistill.storage.files import write_array
from raydistill.storage.run_folder import RunFolder

UNSET = {"epochs": None}
ROLES = ("generalist", "specialist", "student", "trial")


def passes(folder, rows, transfer=None, **changes):
    settings = {name: {**UNSET, **changes.get(name, {})} for name in ("generalist", "specialists", "student", "search")}
    run = RunFolder(folder)
    write_array(run.stage_folder("splits") / "fit.npy", np.arange(rows, dtype=np.int8))
    write_array(run.stage_folder("targets") / "rows.npy", np.arange(transfer or rows, dtype=np.int8))
    return [count_passes(run, quick_config(folder, **settings), role) for role in ROLES]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1_078, [40, 16, 72, 12]),  # 33 steps a pass
        (153_600, [20, 8, 36, 6]),  # 600
        (384_000, [8, 3, 14, 2]),  # 1500
        (100_000_000, [8, 3, 14, 2]),
    ],
)
def test_passes_by_the_number_of_rows(tmp_path, rows, expected):
    assert passes(tmp_path, rows) == expected


def test_passes_that_are_given_are_kept_and_others_follow(tmp_path):
    assert passes(tmp_path, 1_078, generalist={"epochs": 4}) == [4, 3, 7, 2]
    assert passes(tmp_path, 1_078, generalist={"batch_size": 2}) == [22, 9, 40, 7]
    assert passes(tmp_path, 1_078, specialists={"epochs": 1}, search={"epochs": 1}) == [40, 1, 72, 1]
    assert passes(tmp_path, 1_078, student={"epochs": 10}) == [40, 16, 10, 2]


def test_a_small_transfer_set_is_seen_more_often(tmp_path):
    assert passes(tmp_path, 1_078, transfer=539) == [40, 16, 144, 24]


def test_a_checkpoint_beside_a_finished_network_goes(tmp_path):
    """A process was killed after the finished mark, and before it had removed it."""
    write_network(tmp_path, {"a": torch.zeros(2)}, {"history": [{"epoch": 1}], "best_epoch": 1})
    before = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(b"x")
    record = train_once(tmp_path, lambda checkpoint: pytest.fail("trained again"))
    assert record["best_epoch"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {"weights.safetensors", "training.json"}
    assert (tmp_path / "weights.safetensors").read_bytes() == before
