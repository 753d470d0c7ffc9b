"""Line 6: the cache of soft targets: its bytes, the KL lost by storing, its speed against the disk's, its cost in use.

The teachers are trained where RAYDISTILL_KANJI names a data file (`trained`), else drawn (`teachers`); quick: drawn.
Tails are fitted to three quarters of the images, and the losses are of the others. Speeds are of the sparse form at
15,000 classes, on ready log-probabilities, in one thread of the process that measures.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.speed.measure import Line, Part, Setup, Work, at_least, at_most, divide, take_turns
from benchmarks.speed.teachers import Answers, draw_answers
from benchmarks.speed.trained import train_answers
from benchmarks.speed.training import BATCH, bare_steps, make_examples, make_network
from raydistill.method.tails import TailBasis, fit_tail
from raydistill.method.targets import SoftTargets, TargetsWriter, measure_kl_lost
from raydistill.settings.config import TargetsConfig
from raydistill.stages.teacher import choose_tail_rank
from raydistill.storage.files import Array, write_aside

CLASSES = (523, 2965, 15_000)
TEMPERATURES = (1.0, 2.0, 5.0, 20.0)
IMAGES = 100_000  # over which the tail's basis is shared out in the bytes of an image
SETTINGS = TargetsConfig()
NOTES = (
    "Both kinds of file are written aside, flushed (fsync) and renamed, and before each reading the system is told to"
    " forget their pages (posix_fadvise, DONTNEED). The files are of 131,072 images (quick: 32,768).",
    "With a tail, arithmetic and not the disk is what writing takes: mostly two products with the basis. Spread evenly"
    " (targets.tail_rank 0) it takes 41 µs an image, 1.4 GB/s of log-probabilities.",
    "The mean of several seeds' probabilities is no affine function of a hidden layer: its logarithm bends between the"
    " members, and misses the goal with any rank that pays.",
)


def write(folder: Path, log_probs: Tensor, tail: TailBasis | None) -> float:
    """Write a cache; returns bytes of the log-probabilities."""
    sizes = {"dense_classes": SETTINGS.dense_classes, "top_k": SETTINGS.top_k}
    with TargetsWriter(folder, examples=len(log_probs), classes=log_probs.shape[1], tail=tail, **sizes) as writer:
        for block in log_probs.split(256):
            writer.append(block)
    return log_probs.numel() * 4.0


def fit_default(log_probs: Tensor) -> TailBasis | None:
    """The tail that a run with default settings fits."""
    rank = choose_tail_rank(SETTINGS, log_probs.shape[1])
    return fit_tail(log_probs, rank) if rank else None


def count_bytes(folder: Path, images: int) -> float:
    """Bytes of an image: its own, and its share of what IMAGES images share."""
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    shared = sum(sizes.pop(name, 0) for name in ("tail.npy", "targets.json"))
    return sum(sizes.values()) / images + shared / IMAGES


def measure_losses(answers: Answers, classes: int, folder: Path) -> list[Line]:
    """Bytes, and the KL lost at each temperature, for each teacher."""
    lines, bound = [], classes == CLASSES[-1]
    for name, log_probs in answers.teachers.items():
        part = len(log_probs) * 3 // 4
        here = folder / f"{classes} {name}"
        checked, actual = log_probs[part:], log_probs.shape[1]
        write(here, checked, fit_default(log_probs[:part]))
        if name == "equation 5":
            share = 100 * count_bytes(here, len(checked)) / (4 * actual)
            goal = at_most(2) if bound else None
            lines.append(Line(f"share of dense float32, {classes} classes", [share], goal, "%", exact=True))
        lost = measure_kl_lost(SoftTargets.open(here), torch.arange(len(checked)), checked, TEMPERATURES)
        for temperature, value in lost.items():
            goal = at_most(1e-3) if bound and float(temperature) <= 5 else None
            title = f"KL lost at T = {temperature}, {classes} classes, {name}"
            lines.append(Line(title, [value], goal, "nats"))
    return lines


def write_plain(path: Path, content: bytes) -> float:
    """Write one file as the package does: aside, flushed, renamed. Returns bytes."""
    with write_aside(path) as aside:
        aside.write_bytes(content)
    return float(len(content))


def drop_pages(*paths: Path) -> None:
    """Have the system forget what it keeps of flushed files, where it can; else reads are from memory."""
    for path in paths:
        with open(path, "rb") as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_plain(path: Path) -> float:
    """Read one file, a megabyte at a time, cold. Returns bytes."""
    drop_pages(path)
    buffer, total = bytearray(1 << 20), 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total += count
    return float(total)


def read_rows(folder: Path) -> float:
    """Read all that a cache holds of its images, a batch at a time, cold. Returns bytes."""
    drop_pages(*folder.iterdir())
    targets, total = SoftTargets.open(folder), 0
    assert targets.class_ids is not None and targets.rest is not None and targets.tails is not None  # noqa: PT018
    parts = (targets.log_probs, targets.class_ids, targets.rest, targets.tails.coefficients, targets.tails.offsets)
    for rows in torch.arange(len(targets.log_probs)).split(BATCH):
        total += sum(part[rows].nbytes for part in parts)
    return float(total)


def read_log_probs(folder: Path) -> float:
    """Read a cache's log-probabilities, cold. Returns their bytes in float32."""
    drop_pages(*folder.iterdir())
    targets = SoftTargets.open(folder)
    return float(sum(targets.read(rows).nbytes for rows in torch.arange(len(targets.log_probs)).split(BATCH)))


class ReadyWriter(TargetsWriter):
    """A writer without the arithmetic: each block has the summary of the first."""

    ready: dict[str, Array] | None = None

    def _summarise(self, log_probs: Tensor) -> dict[str, Array]:
        self.ready = self.ready or super()._summarise(log_probs)
        return self.ready


def write_ready(folder: Path, block: Tensor, tail: TailBasis, repeats: int) -> float:
    """Write a cache of a block (n, K) so many times. Returns bytes of the files."""
    sizes = {"dense_classes": SETTINGS.dense_classes, "top_k": SETTINGS.top_k}
    with ReadyWriter(folder, examples=len(block) * repeats, classes=block.shape[1], tail=tail, **sizes) as writer:
        for _ in range(repeats):
            writer.append(block)
    return float(sum(path.stat().st_size for path in folder.iterdir()))


def measure_speeds(log_probs: Tensor, folder: Path, setup: Setup) -> list[Line]:
    """Writing and reading against a plain file of as many bytes; the files alone, and with the arithmetic."""
    tail = fit_default(log_probs)
    assert tail is not None
    block, repeats = log_probs[:32], 1024 if setup.quick else 4096
    write(folder / "all", log_probs[:512], tail)
    content = os.urandom(int(write_ready(folder / "files", block, tail, repeats)))
    write_plain(folder / "plain", content)
    contenders: dict[str, Work] = {
        "plain": lambda: write_plain(folder / "plain", content),
        "files": lambda: write_ready(folder / "files", block, tail, repeats),
        "all": lambda: write(folder / "all", log_probs[:512], tail),
        "read plain": lambda: read_plain(folder / "plain"),
        "read files": lambda: read_rows(folder / "files"),
        "read all": lambda: read_log_probs(folder / "all"),
    }
    rates = take_turns(contenders, setup.rounds)
    return [
        Line(
            "writing, files of ready summaries, to a plain file", divide(rates["files"], rates["plain"]), at_least(0.5)
        ),
        Line("writing, log-probabilities' bytes, to a plain file", divide(rates["all"], rates["plain"]), at_least(0.5)),
        Line("reading, files, cold, to a plain file", divide(rates["read files"], rates["read plain"]), at_least(0.5)),
        Line(
            "reading, log q's bytes, cold, to a plain file",
            divide(rates["read all"], rates["read plain"]),
            at_least(0.5),
        ),
        Line("the disk, writing", [rate / 1e6 for rate in rates["plain"]], unit="MB/s"),
        Line("the disk, reading", [rate / 1e6 for rate in rates["read plain"]], unit="MB/s"),
    ]


def measure_use(log_probs: Tensor, folder: Path, setup: Setup) -> list[Line]:
    """What softened targets take of a student's step."""
    classes, steps = log_probs.shape[1], 2
    rows = torch.arange(len(log_probs)).repeat(2)[:BATCH]
    contenders: dict[str, Work] = {}
    for name, tail in (("evenly", None), ("tail", fit_default(log_probs))):
        write(folder / name, log_probs, tail)
        targets = SoftTargets.open(folder / name)
        contenders[name] = lambda targets=targets: float(targets.soften(rows, 2.0).shape[0])
    examples = make_examples(BATCH, classes)
    for units in (96, 512):
        network = make_network("mlp", {"hidden": [units]}, classes, torch.device("cpu"))
        contenders[str(units)] = bare_steps(network, examples, steps, torch.device("cpu"))
    rates = take_turns(contenders, setup.rounds)
    return [
        Line(f"softened targets, {name}, in a student's step of {units} units", divide(rates[units], rates[name]))
        for units in ("96", "512")
        for name in ("evenly", "tail")
    ]


def measure_cache(setup: Setup) -> Part:
    """Line 6, on the processor."""
    file, lines, notes = os.environ.get("RAYDISTILL_KANJI"), [], list(NOTES)
    images = 1024 if setup.quick else 2048 + 512
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for classes in CLASSES:
            trained = file is not None and not setup.quick
            answers = train_answers(Path(file or ""), classes, images) if trained else draw_answers(classes, images)
            lines += measure_losses(answers, classes, folder)
            notes.append(f"{classes} classes: {answers.told}.")
        last = answers.teachers["equation 5"]
        lines += measure_speeds(last, folder, setup) + measure_use(last[:512], folder, setup)
    return Part(lines, notes)
