"""A generalist that the user hands over: its file takes the place of training.

Comes in: generalist.checkpoint. Goes out: the files that training would have left, and its accuracy on the confuse
split; or a ModelError that says in what the file differs from the settings and the data.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import cross_entropy

from raydistill.data.arrays import Examples, read_split
from raydistill.errors import ModelError
from raydistill.networks.architecture import generalist_architecture, identify_architecture
from raydistill.networks.models import Model
from raydistill.networks.weights import (
    GivenWeights,
    compare_weights,
    describe_difference,
    find_head_names,
    find_prefix,
    load_tensors,
    read_weights,
)
from raydistill.settings.config import Config
from raydistill.stages.context import Context
from raydistill.stages.networks import build_generalist, write_network
from raydistill.storage.run_folder import RunFolder
from raydistill.training.loop import copy_weights
from raydistill.training.scoring import predict_logits
from raydistill.training.seeds import mix_seed
from raydistill.training.workers import choose_device

FIELD = "generalist.checkpoint"
LOOKED_AT = 10_000  # training rows whose loss is told
ORDER_CLASSES = 2048  # up to so many, the order of classes is looked into
ORDER_RIGHT, ORDER_RATIO = 0.5, 0.5
"""Another order of classes is told where it makes so many examples right, and the given one less than this share."""


def load_given(run: RunFolder, config: Config, examples: Examples) -> Model:
    """The generalist of the checkpoint. Raises ModelError if it is none, or of other shapes or classes."""
    path = str(config.generalist.checkpoint)
    given = read_weights(path, FIELD)
    model = build_generalist(run, config, examples, start=True)
    if config.generalist.normalise != "auto":
        kept = {name: tensor for name, tensor in given.tensors.items() if not name.startswith("normalise.")}
        given = GivenWeights(kept, given.class_names)
    check_class_names(path, given, examples.class_names)
    prefix = find_prefix(model, given.tensors)
    check_class_count(path, model, given, prefix, examples.classes)
    difference = compare_weights(model, given.tensors, prefix)
    if difference.missing or difference.unexpected or difference.misshapen:
        raise ModelError(
            f"{FIELD}: {path!r} is not of generalist.model {config.generalist.model!r} with its options:"
            f" {describe_difference(model, difference, given.tensors, prefix)}"
        )
    load_tensors(model, given.tensors, prefix)
    return model


def describe_assumption(config: Config) -> str | None:
    """What is taken for granted of a given generalist, whose file does not tell; None where nothing unusual is."""
    if config.generalist.checkpoint is None or config.balance.prior == "natural":
        return None
    return (
        f"{FIELD}: its probabilities are taken to hold for the shares of balance.prior {config.balance.prior}, as those"
        " of all other networks will; if it was trained on examples in their natural shares, with a plain loss, leave"
        " balance.prior natural"
    )


def check_class_names(path: str, given: GivenWeights, names: tuple[str, ...]) -> None:
    """Raise ModelError if the file names its classes, and they are others than the data's, or in another order."""
    if given.class_names is None or given.class_names == names:
        return
    if len(given.class_names) != len(names):
        raise ModelError(
            f"{FIELD}: {path!r} has {len(given.class_names)} classes and the data {len(names)}; give a generalist of"
            " these classes, or its file as weights, of which the output layer is left out"
        )
    place = next(index for index, pair in enumerate(zip(given.class_names, names, strict=True)) if len({*pair}) == 2)
    raise ModelError(
        f"{FIELD}: {path!r} has other classes, or another order: number {place} is {given.class_names[place]!r} in the"
        f" file and {names[place]!r} in the data; order the data's classes as the file's (class_names)"
    )


def check_class_count(path: str, model: Model, given: GivenWeights, prefix: str, classes: int) -> None:
    """Raise ModelError if the file's output layer is for another number of classes."""
    for name in find_head_names(model, classes):
        tensor = given.tensors.get(name.removeprefix(prefix))
        if tensor is not None and len(tensor) != classes:
            raise ModelError(
                f"{FIELD}: {path!r} has {len(tensor)} classes ({name.removeprefix(prefix)}) and the data {classes};"
                " give a generalist of these classes, or its file as weights, of which the output layer is left out"
            )


def take_checkpoint(context: Context) -> None:
    """Write the given generalist as training would have; say how it does on the confuse split.

    Raises ModelError if it answers as one whose classes are in another order, or with numbers that are not finite.
    """
    run, config, examples = context.run, context.config, context.examples
    model = load_given(run, config, examples).to(choose_device())
    rows = read_split(run, "confuse")
    logits, labels = predict_logits(model, examples.x, rows), examples.y[rows]
    if not logits.isfinite().all():
        raise ModelError(f"{FIELD}: {config.generalist.checkpoint!r} gives logits that are not finite; check the file")
    right = logits.argmax(dim=1) == labels
    check_class_order(logits.argmax(dim=1), labels, examples.class_names)
    record = {
        "epoch": 0,
        "loss": measure_loss(model, examples, read_split(run, "fit"), config.seed),
        "valid_loss": float(cross_entropy(logits.double(), labels)),
        "value": float(right.double().mean()),
    }
    said = {"history": [record], "best_epoch": 0, "given": identify_architecture(generalist_architecture(config))}
    write_network(run.stage_folder("generalist"), copy_weights(model), said)
    context.display.note(f"generalist as given, not trained: {record['value']:.1%} right on the confuse split")


def measure_loss(model: Model, examples: Examples, rows: Tensor, seed: int) -> float:
    """Mean loss in nats on training rows, LOOKED_AT at most."""
    generator = torch.Generator().manual_seed(mix_seed(seed, 6))
    chosen = rows[torch.randperm(len(rows), generator=generator)[:LOOKED_AT].sort().values].long()
    return float(cross_entropy(predict_logits(model, examples.x, chosen).double(), examples.y[chosen]))


def check_class_order(predicted: Tensor, labels: Tensor, names: tuple[str, ...]) -> None:
    """Raise ModelError if the answers are right but for the order of the classes. predicted, labels: (N,)."""
    classes = len(names)
    if classes > ORDER_CLASSES or (predicted == labels).double().mean() >= ORDER_RATIO:
        return
    counts = torch.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes).numpy()
    truth, answer = linear_sum_assignment(counts, maximize=True)
    best, own = counts[truth, answer].sum() / len(labels), np.trace(counts) / len(labels)
    if best >= ORDER_RIGHT and own < ORDER_RATIO * best:
        place = next(index for index in range(classes) if answer[index] != index and counts[index, answer[index]])
        raise ModelError(
            f"{FIELD}: its classes are in another order than the data's: {own:.1%} are right, and {best:.1%} would be"
            f" in another order, such as {names[place]!r} as number {answer[place]} instead of {place};"
            " order the data's classes as the generalist's"
        )
