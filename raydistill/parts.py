"""The method's parts on plain arrays, for a loop of your own: no run folder, no settings file, no Ray.

    generalist's logits ─► confusion_affinity ─► group_classes ─► train_specialist ×M ─► combine_teachers
                        ─► SoftTargets.from_arrays ─► choose_temperature ─► distil_student, or distillation_loss

Comes in: NumPy arrays or tensors, x (N, ...), y (N,) class numbers from 0, logits (N, K). Goes out: arrays, networks.
Networks are any torch modules that give raw logits; they train on the device that they are on. Nothing of the process
changes: random numbers, threads and warnings stay as they were.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from raydistill.data.objects import to_array
from raydistill.data.tensors import (
    ArrayLike,
    Pair,
    TwoParts,
    join_parts,
    part_rows,
    to_examples,
    to_group,
    to_labels,
    to_logits,
)
from raydistill.errors import ConfigError, DataError
from raydistill.execution.jobs import Trial
from raydistill.method.confusion import Affinity, build_affinity, keep_probable, measure_confusion
from raydistill.method.ensemble import EnsembleSolution, choose_active, solve_ensemble
from raydistill.method.specialists import (
    Dustbin,
    enriched_loss,
    prepare_dustbin,
    prior_shift,
    sample_enriched,
    score_enriched,
    specialist_log_probs,
)
from raydistill.method.targets import SoftTargets
from raydistill.settings.networks import TrainingConfig
from raydistill.settings.sections import describe_validation_error
from raydistill.storage.files import Sparse
from raydistill.surroundings import kept_surroundings
from raydistill.training.batches import Batch, Batches
from raydistill.training.forward import place_model
from raydistill.training.loop import train_model
from raydistill.training.losses import Loss, WithGradient, batch_label_loss
from raydistill.training.scoring import Validate, score_labels
from raydistill.training.seeds import mix_seed
from raydistill.training.workers import device_of, unwrap

History = list[dict[str, float]]
"""A record a pass: epoch, loss, valid_loss (nats), value (accuracy), learning_rate."""


def confusion_affinity(logits: ArrayLike, labels: ArrayLike, affinity: Affinity = "soft") -> Sparse:
    """How often each pair of classes is confused: symmetric, non-negative, without a diagonal; for `group_classes`.

    logits: (N, K), of examples that the network was not trained on. labels: (N,). affinity: soft (sums of
    probabilities), hard (counts) or covariance (labels count for nothing). Returns scipy.sparse (K, K), float64.
    """
    answers = to_logits(logits, "logits")
    classes = to_labels(labels, answers.shape[1], "labels")
    if len(answers) != len(classes):
        raise DataError(f"logits, labels: {len(answers)} and {len(classes)} examples; give as many")
    return build_affinity(measure_confusion(keep_probable([answers], len(answers)), classes, affinity))


def train_classifier(
    model: nn.Module,
    x: ArrayLike,
    y: ArrayLike,
    *,
    valid: Pair,
    epochs: int = 8,
    patience: int | None = None,
    seed: int = 0,
    **settings: Any,
) -> History:
    """Train a network in place on labels, with the package's own loop; it ends in evaluation mode.

    valid: held-out x and y. patience: passes without improvement there after which training ends with the best pass's
    weights; None: it trains in full. settings: batch_size, learning_rate, weight_decay, shift, max_norm, precision,
    compile, channels_last, as in a run's sections.
    """
    classes = count_outputs(model, x)
    return _train(model, join_parts(x, y, valid, classes), batch_label_loss, None, epochs, patience, seed, settings)


def train_specialist(
    generalist: nn.Module,
    x: ArrayLike,
    y: ArrayLike,
    members: ArrayLike,
    *,
    valid: Pair,
    epochs: int = 4,
    patience: int | None = 8,
    dustbin: Dustbin = "merged",
    group_share: float = 0.5,
    seed: int = 0,
    **settings: Any,
) -> nn.Module:
    """Fine-tune a copy of the generalist on one group of classes, half of the examples being the group's.

    members: boolean (K,), a row of `group_classes`. valid: held-out x and y. dustbin: merged or single. group_share:
    the group's share of the examples. settings: as of `train_classifier`. Returns the copy, in evaluation mode; its
    logits (N, K) are for `combine_teachers`, or for `specialist_log_probs` of specialists.py.
    """
    classes = count_outputs(generalist, x)
    group = to_group(members, classes, dustbin)
    data = join_parts(x, y, valid, classes)
    own, others = part_rows(data.examples.y, data.train, group)
    if not 0 < group_share < 1 or len(own) == 0 or len(others) == 0:
        raise ConfigError(f"members, group_share: {len(own)} and {len(others)} examples in and outside the group")
    shift = prior_shift(len(own) / (len(own) + len(others)), group_share)
    held_out = sample_enriched(*part_rows(data.examples.y, data.valid, group), group_share)
    rows = held_out(torch.Generator().manual_seed(mix_seed(seed, 1)))
    specialist = copy.deepcopy(generalist)
    prepare_dustbin(specialist, group)
    data = data.sampled(sample_enriched(own, others, group_share))
    score = score_enriched(data.examples, rows, group, shift)
    settings = {"learning_rate": 1e-3, **settings}
    _train(specialist, data, enriched_loss(group, shift), score, epochs, patience, seed, settings)
    return specialist


def combine_teachers(
    generalist_logits: ArrayLike,
    specialist_logits: Sequence[ArrayLike],
    members: ArrayLike,
    *,
    top_n: int = 1,
    dustbin: Dustbin = "merged",
) -> EnsembleSolution:
    """The ensemble's answer by equation 5 of Hinton, Vinyals, Dean 2015, solved to a certified gap.

    generalist_logits: (N, K). specialist_logits: of each of the M specialists, (N, K). members: boolean (M, K). top_n:
    a specialist is asked where its classes meet the generalist's so many most probable ones. Returns log_probs (N, K)
    and gap (N,) nats. `solve_ensemble` is the same for specialists that answered only where they are asked.
    """
    generalist = log_softmax(to_logits(generalist_logits, "generalist_logits"), dim=1)
    known = torch.from_numpy(to_array(members, "members").astype(bool))
    if len(known) != len(specialist_logits):
        raise DataError(f"specialist_logits: {len(specialist_logits)} for {len(known)} groups; give one for each")
    active = choose_active(generalist, known, top_n)
    answers = []
    for index, logits in enumerate(specialist_logits):
        group = to_group(known[index], generalist.shape[1], dustbin)
        asked = to_logits(logits, f"specialist_logits[{index}]")[active[:, index]]
        answers.append(specialist_log_probs(asked, group))
    return solve_ensemble(generalist, known, active, answers)


def distil_student(
    student: nn.Module,
    x: ArrayLike,
    y: ArrayLike,
    targets: SoftTargets | ArrayLike,
    *,
    temperature: float,
    label_weight: float,
    valid: Pair,
    epochs: int = 8,
    seed: int = 0,
    **settings: Any,
) -> History:
    """Train a student in place on soft targets and labels; it ends in evaluation mode.

    targets: the teacher's answers to x in its order, `SoftTargets` or log-probabilities (N, K). temperature,
    label_weight: see `distillation_loss`. settings: as of `train_classifier`.
    """
    soft = targets if isinstance(targets, SoftTargets) else SoftTargets.from_arrays(targets)
    if len(soft.log_probs) != len(x):
        raise DataError(f"targets: {len(soft.log_probs)} for {len(x)} examples; give one for each, in their order")
    if not temperature > 0 or not 0 <= label_weight <= 1:
        raise ConfigError(f"temperature, label_weight: {temperature} and {label_weight}; give above 0, and 0 to 1")

    def loss(logits: Tensor, batch: Batch) -> WithGradient:
        return soft.distil(logits, batch.rows, batch.labels, temperature, label_weight)

    data = join_parts(x, y, valid, soft.classes)
    return _train(student, data, loss, None, epochs, None, seed, settings)


def choose_temperature(
    build_student: Callable[[], nn.Module],
    x: ArrayLike,
    y: ArrayLike,
    targets: SoftTargets | ArrayLike,
    *,
    valid: Pair,
    temperatures: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    label_weights: Sequence[float] = (0.0, 0.25),
    epochs: int = 2,
    seed: int = 0,
    **settings: Any,
) -> tuple[Trial, list[Trial]]:
    """Try every pair of temperature and label weight on a short training of a fresh student.

    build_student: gives a student with the same weights each time, or the pairs are not comparable. The rest as of
    `distil_student`. Returns the trial that ends with the highest accuracy on `valid`, and all of them.
    """
    trials = []
    for temperature in temperatures:
        for label_weight in label_weights:
            history = distil_student(
                build_student(),
                x,
                y,
                targets,
                temperature=temperature,
                label_weight=label_weight,
                valid=valid,
                epochs=epochs,
                seed=seed,
                **settings,
            )
            trials.append(Trial(temperature, label_weight, tuple(record["value"] for record in history), False))
    return max(trials, key=lambda trial: trial.values[-1]), trials


def count_outputs(model: nn.Module, x: ArrayLike) -> int:
    """K: how many logits the network gives for the first example."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        shape = model(to_examples(x[:1], "x").to(device_of(model))).shape
    model.train(training)
    if len(shape) != 2:
        raise DataError(f"model: it gives shape {tuple(shape)} for one example; give a network with logits (N, K)")
    return int(shape[1])


def _train(
    model: nn.Module,
    data: TwoParts,
    loss: Loss,
    score: Validate | None,
    epochs: int,
    patience: int | None,
    seed: int,
    settings: dict[str, Any],
) -> History:
    try:
        chosen = TrainingConfig(epochs=epochs, **settings)
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error, TrainingConfig)) from None
    device = device_of(model)
    with kept_surroundings():
        progress = train_model(
            placed := place_model(model, chosen, device),
            Batches(data.examples, data.sampler, chosen.batch_size, chosen.shift, seed, device),
            loss,
            chosen,
            epochs=epochs,
            validate=score or score_labels(data.examples, data.valid),
            patience=patience,
            beat=lambda progress: None,
        )
    unwrap(placed).eval()
    return progress.history
