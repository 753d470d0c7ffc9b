"""Prints the most anonymous memory, in bytes, while an epoch of so many mapped rows is gone through: for a test."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from raydistill.data.arrays import Examples
from raydistill.method.specialists import Group
from raydistill.stages.feeding import weigh_by_class
from raydistill.stages.specialists import part_by_class, sample_by_class
from raydistill.stages.student import soft_loss
from raydistill.storage.files import map_array
from raydistill.training.balance import Balance
from raydistill.training.batches import Batches, repeat_rows
from raydistill.training.orders import count_labels, order_by_weight

CLASSES = 8


def read_anonymous() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def make_mapped(folder: Path, rows: int) -> None:
    """Files of x, y, rows, rows by class."""
    labels = np.arange(rows) % CLASSES
    arrays = {"x": np.zeros((rows, 2), np.uint8), "y": labels, "rows": np.arange(rows)}
    arrays["by_class"] = np.argsort(labels, kind="stable")
    for name, array in arrays.items():
        np.save(folder / f"{rows}_{name}.npy", array)


class Positions:
    """In place of targets: what they are asked for."""

    def distil(self, logits, positions, labels, temperature, label_weight):
        assert len(positions) == len(labels)


def main(kind: str, count: int, folder: Path) -> None:
    if not (folder / f"{count}_by_class.npy").exists():
        make_mapped(folder, count)
    x, y, rows, by_class = (
        torch.from_numpy(map_array(folder / f"{count}_{name}.npy")) for name in ("x", "y", "rows", "by_class")
    )
    examples, group = Examples(x, y, tuple(map(str, range(CLASSES)))), Group(torch.tensor([1, 5]), CLASSES)
    if kind == "specialist":
        sampler = sample_by_class(*part_by_class(by_class, examples, group, None), 0.25, weighted=False)
    elif kind == "balance":
        balance = Balance(torch.linspace(-3, -1, CLASSES), 1.0, 0.5)
        weighed = weigh_by_class(by_class, count_labels(y, by_class, CLASSES), balance)
        sampler = lambda generator: order_by_weight(weighed, count, generator)  # noqa: E731
    else:
        sampler = repeat_rows(rows, count)
    batches, loss = Batches(examples, sampler, 4096, 0, 7, torch.device("cpu")), soft_loss(Positions(), rows, 2.0, 0.0)
    most = 0
    for step, batch in enumerate(batches.iterate(0)):
        if kind == "student":
            loss(batch.inputs, batch)
        if step % 8 == 0:
            most = max(most, read_anonymous())
    assert step + 1 == batches.count_steps()
    print(json.dumps(most))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
