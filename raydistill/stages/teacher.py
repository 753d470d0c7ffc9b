"""Stages ensemble and targets: whether the teachers beat the generalist, and the cache of their soft targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.data.arrays import Examples, read_split, read_unlabeled_rows
from raydistill.data.transfer import choose_transfer_rows
from raydistill.data.views import Views, count_views
from raydistill.errors import ConfigError
from raydistill.method.tails import TailBasis, fit_tail
from raydistill.method.targets import SoftTargets, TargetsWriter, measure_kl_lost, stored_classes
from raydistill.method.teacher import Ensemble, SeedEnsemble, TeacherAnswers, Teachers
from raydistill.settings.config import Config, TargetsConfig
from raydistill.stages.context import Context
from raydistill.stages.feeding import build_augment, write_by_class
from raydistill.stages.groups import list_trained, read_group
from raydistill.stages.networks import build_generalist, load_specialist, load_weights
from raydistill.stages.roles import has_seeds, has_specialists, list_teachers, student_teacher
from raydistill.storage.files import write_array, write_json
from raydistill.storage.folders import list_files
from raydistill.storage.run_folder import RunFolder
from raydistill.training.scoring import share_score
from raydistill.training.seeds import mix_seed
from raydistill.training.workers import choose_device

BLOCK_BYTES = 2**24  # of float32 log-probabilities at once; measured: a quarter or six times as much take 1.6 to 1.8
# times as long with 61 specialists
REPORTED_TEMPERATURES = (1.0, 2.0, 5.0, 20.0)
CHECKED_ROWS = 2000  # on which the KL lost by storing is measured
TAIL_RANK = 192  # at most; measured with 14,825 classes and networks of 192 units: 128 lose 5e-4 nats, 96 1e-2
EVEN_CLASSES = 4096  # up to so many, tails are even: measured with 2965, rank 192 is 0.45 of a step of 96 units
TAIL_IMAGES = 2048  # that tails are fitted to
TRANSFER_STREAM, VIEWS_STREAM = 4, 5  # of the run's seed


def load_ensemble_from(run: RunFolder, config: Config, examples: Examples) -> Ensemble:
    """Generalist and specialists of a run, ready to be called."""
    generalist = _load(run, config, examples, run.stage_folder("generalist"))
    return _join_specialists(generalist, run, config, examples)


def load_teachers(run: RunFolder, config: Config, examples: Examples) -> Teachers:
    """All teachers that the configuration asks for; they share the generalist."""
    generalist = _load(run, config, examples, run.stage_folder("generalist"))
    return Teachers(
        generalist,
        _join_specialists(generalist, run, config, examples) if has_specialists(config) else None,
        _join_seeds(generalist, run, config, examples) if has_seeds(config) else None,
    )


def _join_specialists(generalist: nn.Module, run: RunFolder, config: Config, examples: Examples) -> Ensemble:
    trained = list_trained(run)
    groups = [read_group(run, config, index) for index in trained]
    specialists = [
        load_specialist(build_generalist(run, config, examples), run.specialist_folder(index), generalist)
        for index in trained
    ]
    return Ensemble(generalist, specialists, groups, config.ensemble.top_n)


def _join_seeds(generalist: nn.Module, run: RunFolder, config: Config, examples: Examples) -> SeedEnsemble:
    others = [_load(run, config, examples, run.seed_folder(index)) for index in range(1, config.teacher.seeds)]
    return SeedEnsemble([generalist, *others], config.teacher.mean)


def _load(run: RunFolder, config: Config, examples: Examples, folder: Path) -> nn.Module:
    return load_weights(build_generalist(run, config, examples), folder).to(choose_device())


def answer_blocks(teachers: Teachers, examples: Examples, rows: Tensor) -> Iterator[tuple[Tensor, TeacherAnswers]]:
    """Answers of all teachers to many rows, a block of bounded size at a time, with the block's rows (n,)."""
    for part in split_blocks(rows, examples):
        yield part, teachers.answer(examples.x, part)


def split_blocks(rows: Tensor, examples: Examples) -> Sequence[Tensor]:
    """Row numbers in blocks whose log-probabilities fit into BLOCK_BYTES."""
    blocks: Sequence[Tensor] = rows.split(max(1, BLOCK_BYTES // (4 * examples.classes)))
    return blocks


def evaluate_ensemble(context: Context) -> None:
    """Write ensemble.json: loss and accuracy of all teachers on the tune split; of equation 5, the certified gap."""
    run, config, examples = context.run, context.config, context.examples
    rows, names = read_split(run, "tune"), list_teachers(config)
    blocks = list(_judge_blocks(load_teachers(run, config, examples), examples, rows))
    summary: dict[str, Any] = {
        name: vars(share_score(*(torch.cat([block[name][part] for block in blocks]) for part in (0, 1))))
        for name in names
    }
    if has_specialists(config):
        active, gap = (torch.cat([block["equation 5"][part] for block in blocks]) for part in (0, 1))
        summary |= {"active_specialists": float(active.double().mean()), "largest_gap_nats": float(gap.max())}
    write_json(run.stage_folder("ensemble") / "ensemble.json", summary)
    shown = ", ".join(f"{name} {summary[name]['accuracy']:.2%}" for name in reversed(names))
    context.display.note(f"on the tune split: {shown}")


def _judge_blocks(teachers: Teachers, examples: Examples, rows: Tensor) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """By teacher, the loss and whether it is right, (n,) each; as 'equation 5', specialists asked and certified gap."""
    for part, answers in answer_blocks(teachers, examples, rows):
        labels = examples.y[part]
        judged = {
            name: (-log_probs.gather(1, labels[:, None]).squeeze(1), log_probs.argmax(dim=1) == labels)
            for name, log_probs in answers.log_probs.items()
        }
        if answers.active is not None and answers.gap is not None:
            judged["equation 5"] = (answers.active.sum(dim=1), answers.gap)
        yield judged


def cache_targets(context: Context) -> None:
    """Choose the transfer set, and write all teachers' soft targets for each view of it, and the KL lost by storing."""
    run, config, examples = context.run, context.config, context.examples
    folder, rows = run.stage_folder("targets"), select_transfer_rows(run, config, examples)
    write_array(folder / "rows.npy", rows.numpy())
    if config.balance.sampling != "natural":
        write_by_class(folder, "rows", rows, examples.y, examples.classes)
    teachers, views = load_teachers(run, config, examples), build_views(run, config, examples)
    tails = _fit_tails(context, teachers, views, rows)
    counts = ClassCounts(examples)
    total, done = views.count * len(rows), 0
    with ExitStack() as files:
        writers = {name: files.enter_context(_open_writer(context, name, total, tails[name])) for name in tails}
        for view in range(views.count):
            for part, answers in _answer_view(teachers, examples, views, view, rows):
                for name, writer in writers.items():
                    writer.append(answers.log_probs[name])
                if view == 0:
                    counts.add(part, answers.log_probs[student_teacher(config)])
                done += len(part)
                context.display.update(done / total, f"soft targets of {done:,} of {total:,} images")
    write_array(folder / "class_counts.npy", counts.total.numpy())
    write_json(folder / "cache.json", _measure_cache(context, teachers, rows, total))


class ClassCounts:
    """How many rows there are of each class, (K,): by their labels; without one, by the student's teacher's answer."""

    def __init__(self, examples: Examples) -> None:
        self._labels = examples.y
        self.total = torch.zeros(examples.classes, dtype=torch.float64)

    def add(self, rows: Tensor, log_probs: Tensor) -> None:
        """Count rows (n,) with the teacher's log-probabilities (n, K)."""
        labels = self._labels[rows]
        self.total += labels[labels >= 0].bincount(minlength=len(self.total))
        self.total += log_probs[labels < 0].double().exp().sum(dim=0)


def _answer_view(
    teachers: Teachers, examples: Examples, views: Views, view: int, rows: Tensor
) -> Iterator[tuple[Tensor, TeacherAnswers]]:
    """As `answer_blocks`, of a view of the rows."""
    for part in split_blocks(rows, examples):
        yield part, teachers.answer(views.show(examples.x[part], part, view), torch.arange(len(part)))


def choose_tail_rank(settings: TargetsConfig, classes: int) -> int:
    """The most coefficients of an image; 0 for none. Raises ConfigError for more than there can be."""
    if stored_classes(classes, settings.dense_classes, settings.top_k) == classes:
        return 0
    if settings.tail_rank is None:
        return TAIL_RANK if classes > EVEN_CLASSES else 0
    if settings.tail_rank >= classes:
        raise ConfigError(
            f"targets.tail_rank: {settings.tail_rank} is not allowed with {classes} classes; give 0 to {classes - 1}"
        )
    return settings.tail_rank


def _fit_tails(context: Context, teachers: Teachers, views: Views, rows: Tensor) -> dict[str, TailBasis | None]:
    """Each teacher's tail, fitted to its answers to images that are spread evenly over all views of the rows."""
    config, examples = context.config, context.examples
    names, rank = list_teachers(config), choose_tail_rank(config.targets, examples.classes)
    if rank == 0:
        return dict.fromkeys(names)
    total = views.count * len(rows)
    positions = torch.arange(min(TAIL_IMAGES, total)) * total // min(TAIL_IMAGES, total)
    answers: dict[str, list[Tensor]] = {name: [] for name in names}
    for view in range(views.count):
        chosen = rows[positions[positions // len(rows) == view] % len(rows)]
        for _, block in _answer_view(teachers, examples, views, view, chosen):
            for name in names:
                answers[name].append(block.log_probs[name])
    return {name: fit_tail(torch.cat(answers.pop(name)), rank) for name in names}


def _measure_cache(context: Context, teachers: Teachers, rows: Tensor, total: int) -> dict[str, Any]:
    """Size of the student's teacher's cache, and what storing loses on its first images."""
    run, name = context.run, student_teacher(context.config)
    checked = rows[:CHECKED_ROWS]
    exact = torch.cat([answers.log_probs[name] for _, answers in answer_blocks(teachers, context.examples, checked)])
    lost = measure_kl_lost(open_targets(run, name), torch.arange(len(checked)), exact, REPORTED_TEMPERATURES)
    stored = sum(path.stat().st_size for path in list_files(targets_folder(run, name)))
    return {
        "kl_lost_nats": lost,
        "bytes_an_example": stored / total,
        "checked_examples": len(checked),
        "views": total // len(rows),
    }


def select_transfer_rows(run: RunFolder, config: Config, examples: Examples) -> Tensor:
    """The rows that the student learns from: chosen training rows, then all without labels, which belong to no class.

    Raises ConfigError for classes that there are not.
    """
    rows, seed = read_split(run, "fit"), mix_seed(config.seed, TRANSFER_STREAM)
    chosen = choose_transfer_rows(rows, examples.y[rows], config.transfer, examples.class_names, seed)
    return torch.cat([chosen, read_unlabeled_rows(run)])


def build_views(run: RunFolder, config: Config, examples: Examples) -> Views:
    """The views in which teachers and students see all rows. Raises ConfigError for more than there are."""
    pixels, names, seed = config.student.shift, config.student.augment, mix_seed(config.seed, VIEWS_STREAM)
    count = count_views(config.targets.views, pixels, examples.input_shape, augmented=bool(names))
    return Views(len(examples.y), pixels, count, seed, build_augment(run, names, seed))


def targets_folder(run: RunFolder, teacher: str) -> Path:
    """Folder of a teacher's soft targets."""
    return run.stage_folder("targets") / teacher


def open_targets(run: RunFolder, teacher: str) -> SoftTargets:
    """Map a teacher's soft targets; position v · n + i belongs to view v of the i-th of n rows of the transfer set."""
    return SoftTargets.open(targets_folder(run, teacher))


def _open_writer(context: Context, teacher: str, examples: int, tail: TailBasis | None) -> TargetsWriter:
    settings = context.config.targets
    return TargetsWriter(
        targets_folder(context.run, teacher),
        examples=examples,
        classes=context.examples.classes,
        dense_classes=settings.dense_classes,
        top_k=settings.top_k,
        tail=tail,
    )
