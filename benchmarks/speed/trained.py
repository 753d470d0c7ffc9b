"""Teachers for the cache, trained on a data file: what its published figures are about.

The file is an .npz with x_train (N, H, W) and y_train. Where more classes are wanted than it has, its images are turned
and mirrored: the same character in another orientation is another class. A generalist, a second one, and specialists of
a few groups, whose classes only are looked at.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from benchmarks.speed.teachers import UNITS, Answers, ask_group, combine, tell
from raydistill.data.arrays import Examples, Normalisation
from raydistill.method.ensemble import choose_active
from raydistill.method.specialists import Group, enriched_loss, sample_enriched
from raydistill.networks.models import build_model
from raydistill.settings.networks import SpecialistsConfig, TrainingConfig
from raydistill.stages.specialists import choose_shift, part_rows
from raydistill.storage.files import read_array, read_tensors, write_array, write_tensors
from raydistill.training.batches import Batches, Sampler, shuffle_rows
from raydistill.training.loop import train_model
from raydistill.training.losses import Loss, batch_label_loss
from raydistill.training.scoring import Score, predict_logits

GROUPS, GROUP_SIZE = 4, 260  # of the specialists
PASSES, SECOND_PASSES, SPECIALIST_PASSES = 4, 2, 6
SETTINGS = TrainingConfig(precision="bfloat16")
CPU = torch.device("cpu")
ORIENTATIONS: list[Callable[[NDArray[Any]], NDArray[Any]]] = [
    lambda images: images,
    lambda images: np.rot90(images, 1, (1, 2)),
    lambda images: np.rot90(images, 2, (1, 2)),
    lambda images: np.rot90(images, 3, (1, 2)),
    lambda images: images[:, :, ::-1],
]


def open_examples(file: Path, classes: int) -> Examples:
    """So many classes of the file and its orientations; fewer where there are no more."""
    with np.load(file, allow_pickle=False) as data:
        x, y = data["x_train"], data["y_train"].astype(np.int64)
    known = int(y.max()) + 1
    kinds = ORIENTATIONS[: -(-classes // known)]
    images = torch.from_numpy(np.concatenate([turn(x) for turn in kinds]))
    labels = torch.from_numpy(np.concatenate([y + known * index for index in range(len(kinds))]))
    classes = min(classes, known * len(kinds))
    return Examples(images[labels < classes], labels[labels < classes], tuple(map(str, range(classes))))


def train_answers(file: Path, classes: int, images: int) -> Answers:
    """Log q of equation 5 and of two seeds, for images that have a specialist. RAYDISTILL_NETS: keeps the networks."""
    examples = open_examples(file, classes)
    order = torch.randperm(len(examples.y), generator=torch.Generator().manual_seed(7))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(os.environ.get("RAYDISTILL_NETS", scratch)) / str(examples.classes)
        everything = shuffle_rows(torch.arange(len(order)))
        first = _train(folder / "first", examples, everything, batch_label_loss, SETTINGS, PASSES, 1)
        second = _train(folder / "second", examples, everything, batch_label_loss, SETTINGS, SECOND_PASSES, 2)
        members = _find_groups(folder / "members.npy", first, examples, order[-2048:])
        specialists = [
            _train_specialist(folder / f"specialist{index}", examples, group, first, index)
            for index, group in enumerate(members)
        ]
    rows = _find_asked(first, examples, order, members, images)
    logits = [predict_logits(network, examples.x, rows) for network in (first, second)]
    active = choose_active(log_softmax(logits[0], dim=1), members)
    asked = [
        ask_group(predict_logits(network, examples.x, rows[active[:, index]]), members[index])
        for index, network in enumerate(specialists)
    ]
    teachers = combine(logits, members, active, asked)
    return Answers(teachers, f"trained networks of {UNITS} units; {tell(teachers, examples.y[rows])}")


def _build(examples: Examples, seed: int) -> nn.Module:
    sample = examples.x[:: max(1, len(examples.x) // 10_000)].float()
    normalisation = Normalisation(float(sample.mean()), float(sample.std()))
    options, classes, shape = {"hidden": [UNITS]}, examples.classes, examples.input_shape
    return build_model("mlp", options, input_shape=shape, classes=classes, normalisation=normalisation, seed=seed)


def _train(
    path: Path,
    examples: Examples,
    sampler: Sampler,
    loss: Loss,
    settings: TrainingConfig,
    passes: int,
    seed: int,
    start: nn.Module | None = None,
) -> nn.Module:
    """A trained network, from its file where that is there already."""
    network, file = _build(examples, seed), path.with_suffix(".safetensors")
    if not file.exists():
        if start is not None:
            network.load_state_dict(start.state_dict())
        batches = Batches(examples, sampler, 256, 1, seed, CPU)
        train_model(
            network,
            batches,
            loss,
            settings,
            epochs=passes,
            validate=lambda model: Score(0.0, 0.0),
            beat=lambda record: None,
        )
        write_tensors(file, network.state_dict())
    network.load_state_dict(read_tensors(file)[0])
    return network.eval()


def _train_specialist(path: Path, examples: Examples, inside: Tensor, first: nn.Module, seed: int) -> nn.Module:
    group = Group(inside.nonzero().squeeze(1), examples.classes)
    settings = SpecialistsConfig(precision="bfloat16")
    own, rest = part_rows(torch.arange(len(examples.y)), examples.y, group.place_of_class)
    loss = enriched_loss(group, choose_shift(settings, len(own), len(rest)))
    sampler = sample_enriched(own, rest, settings.group_share)
    return _train(path, examples, sampler, loss, settings, SPECIALIST_PASSES, seed, first)


def _find_groups(path: Path, first: nn.Module, examples: Examples, rows: Tensor) -> Tensor:
    """(M, K): the classes that are most confused with a few that are drawn."""
    if not path.exists():
        probs = log_softmax(predict_logits(first, examples.x, rows), dim=1).exp()
        drawn = torch.randperm(examples.classes, generator=torch.Generator().manual_seed(1))[:GROUPS]
        confused = torch.stack([probs[:, index] @ probs for index in drawn])
        size = min(GROUP_SIZE, examples.classes // 8)
        members = torch.zeros(confused.shape, dtype=torch.bool)
        write_array(path, members.scatter_(1, confused.topk(size, dim=1).indices, True).numpy())
    return torch.from_numpy(read_array(path))


def _find_asked(first: nn.Module, examples: Examples, order: Tensor, members: Tensor, images: int) -> Tensor:
    """So many rows for which a specialist is active, or all that there are."""
    found: list[Tensor] = []
    for rows in order.split(1024):
        top = predict_logits(first, examples.x, rows).argmax(dim=1)
        found.append(rows[members.any(dim=0)[top]])
        if sum(map(len, found)) >= images:
            break
    return torch.cat(found)[:images]
