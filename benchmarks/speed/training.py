"""Lines 1 and 2: the training step against the bare step, and distillation against the usual loop.

The bare step is the same network's forward and backward pass and the optimizer's step with the labels' cross-entropy,
on a batch that is on the device already. Images are random bytes of MNIST's shape: values do not change the time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, softmax
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.speed.measure import Line, Part, Setup, Target, Work, at_least, divide, take_turns, wait
from raydistill.data.arrays import Examples, Normalisation
from raydistill.data.views import Views
from raydistill.method.specialists import Group, enriched_loss, sample_enriched
from raydistill.method.targets import SoftTargets, TargetsWriter
from raydistill.method.teacher import average_log_probs
from raydistill.networks.models import build_model
from raydistill.settings.networks import TrainingConfig
from raydistill.stages.student import soft_loss
from raydistill.training.batches import Batches, shuffle_rows
from raydistill.training.loop import train_model
from raydistill.training.losses import Loss, batch_label_loss
from raydistill.training.scoring import Score, predict_logits

BATCH = 256
SHAPE = (28, 28)
NORMALISATION = Normalisation(128.0, 74.0)
SETTINGS = TrainingConfig()
DISTILLATION_NOTES = (
    "The bare step, which has no teacher, is the limit of what a float32 student can reach; the line below each target"
    " shows it. Where it is below the target, the target is out of reach on that machine: there 16 forward passes take"
    " less than nine bare steps.",
    "Another way, `--student.precision bfloat16`, is faster than the float32 step where the processor multiplies"
    " bfloat16; it is the last line.",
)
PASSES = 8  # of the package's training in a turn: what it does once, such as building the optimizer, counts for little


def make_examples(rows: int, classes: int) -> Examples:
    """Random images and labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (rows, *SHAPE), generator=generator, dtype=torch.uint8)
    return Examples(x, torch.randint(0, classes, (rows,), generator=generator), tuple(map(str, range(classes))))


def make_network(name: str, options: dict[str, object], classes: int, device: torch.device, seed: int = 0) -> nn.Module:
    """A network of the package."""
    network = build_model(name, options, input_shape=SHAPE, classes=classes, normalisation=NORMALISATION, seed=seed)
    return network.to(device)


def write_targets(folder: Path, log_probs: Tensor, classes: int) -> SoftTargets:
    """A cache as a run with default settings has it."""
    with TargetsWriter(folder, examples=len(log_probs), classes=classes, dense_classes=1024, top_k=128) as writer:
        for block in log_probs.split(4096):
            writer.append(block)
    return SoftTargets.open(folder)


def bare_steps(network: nn.Module, examples: Examples, steps: int, device: torch.device) -> Work:
    """The bare step, so many times; returns images."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    inputs, labels = examples.x[:BATCH].to(device), examples.y[:BATCH].to(device)

    def work() -> float:
        network.train()
        for _ in range(steps):
            loss = cross_entropy(network(inputs), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        wait(device)
        return steps * BATCH

    return work


def package_steps(
    network: nn.Module, batches: Batches, loss: Loss, device: torch.device, settings: TrainingConfig = SETTINGS
) -> Work:
    """PASSES of the package's training, without validation; returns images."""

    def work() -> float:
        train_model(
            network,
            batches,
            loss,
            settings,
            epochs=PASSES,
            validate=lambda model: Score(0.0, 0.0),
            beat=lambda progress: None,
        )
        wait(device)
        return PASSES * batches.count_steps() * BATCH

    return work


def usual_loop(student: nn.Module, teachers: list[nn.Module], examples: Examples, device: torch.device) -> Work:
    """The loop of PyTorch's tutorial "Knowledge Distillation": a DataLoader, and the teacher asked at each step.

    https://docs.pytorch.org/tutorials/beginner/knowledge_distillation_tutorial.html, train_knowledge_distillation, with
    AdamW as in the bare step; of several teachers the mean of the probabilities is learned.
    """
    loader = DataLoader(TensorDataset(examples.x, examples.y), batch_size=BATCH, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    temperature, soft_weight, label_weight = 2.0, 0.75, 0.25

    def work() -> float:
        for teacher in teachers:
            teacher.eval()
        student.train()
        running = 0.0
        for inputs, labels in loader:
            inputs, labels = inputs.to(device), labels.to(device)
            optimizer.zero_grad()
            with torch.no_grad():
                answers = [softmax(teacher(inputs) / temperature, dim=-1) for teacher in teachers]
                soft_targets = sum(answers) / len(answers)
            logits = student(inputs)
            soft_prob = log_softmax(logits / temperature, dim=-1)
            soft_loss = (soft_targets * (soft_targets.log() - soft_prob)).sum() / soft_prob.size()[0] * temperature**2
            loss = soft_weight * soft_loss + label_weight * cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            running += loss.item()
        return len(loader) * BATCH

    return work


def measure_steps(setup: Setup) -> Part:
    """Line 1: all roles, mlp and cnn, 523 and 2965 classes."""
    lines = []
    for classes in (523, 2965):
        for name in ("mlp",) if setup.quick else ("mlp", "cnn"):
            lines += measure_roles(name, classes, setup)
    return Part(lines)


def measure_roles(name: str, classes: int, setup: Setup) -> list[Line]:
    """Generalist, specialist and student of one kind of network."""
    steps, device = 32 if name == "mlp" else 8, setup.device
    rows = torch.arange(steps * BATCH)
    examples = make_examples(len(rows), classes)
    members = torch.arange(classes // 8)
    group = Group(members, classes)
    in_group = examples.y < len(members)
    sampler = sample_enriched(rows[: len(rows) // 2], rows[in_group.logical_not()], 0.5)
    views = Views(len(rows), 1, 4, 0)
    with tempfile.TemporaryDirectory() as folder:
        log_probs = log_softmax(torch.randn(4 * len(rows), classes) * 3, dim=1)
        targets = write_targets(Path(folder), log_probs, classes)

        def batches(sample: Callable[[torch.Generator], Tensor], shift: int, views: Views | None = None) -> Batches:
            return Batches(examples, sample, BATCH, shift, 0, device, views)

        shuffled = shuffle_rows(rows)
        roles: dict[str, tuple[Batches, Loss]] = {
            "generalist": (batches(shuffled, 1), batch_label_loss),
            "specialist": (batches(sampler, 1), enriched_loss(group, 1.0)),
            "student": (batches(shuffled, 0, views), soft_loss(targets, rows, 1.5, 0.5)),
        }
        contenders = {"bare": bare_steps(make_network(name, {}, classes, device), examples, PASSES * steps, device)}
        for role, (feed, loss) in roles.items():
            contenders[role] = package_steps(make_network(name, {}, classes, device), feed, loss, device)
        rates = take_turns(contenders, setup.rounds)
    return [
        Line(
            f"step of a {role}, {name}, {classes} classes, to the bare step",
            divide(rates[role], rates["bare"]),
            at_least(0.95),
        )
        for role in roles
    ]


def measure_distillation(setup: Setup) -> Part:
    """Line 2: against the loop of PyTorch's own tutorial on knowledge distillation, MLP 800, 10 classes."""
    steps, options, device = 40, {"hidden": [800]}, setup.device
    rows = torch.arange(steps * BATCH)
    examples = make_examples(len(rows), 10)
    student = make_network("mlp", options, 10, device)
    teachers = [make_network("mlp", options, 10, device, seed) for seed in range(1, 17)]
    with tempfile.TemporaryDirectory() as folder:

        def cache(members: list[nn.Module]) -> SoftTargets:
            answers = [log_softmax(predict_logits(member, examples.x), dim=1) for member in members]
            return write_targets(
                Path(folder) / str(len(members)), average_log_probs(torch.stack(answers), "arithmetic"), 10
            )

        def write_cache(members: list[nn.Module]) -> float:
            return len(cache(members).log_probs)

        def through_package(members: list[nn.Module], settings: TrainingConfig = SETTINGS) -> Work:
            loss = soft_loss(cache(members), rows, 2.0, 0.25)
            batches = Batches(examples, shuffle_rows(rows), BATCH, 0, 0, device)
            return package_steps(student, batches, loss, device, settings)

        taught: dict[str, tuple[list[nn.Module], Target]] = {
            "one net": (teachers[:1], at_least(1.7)),
            "16 nets": (teachers, at_least(10)),
        }
        contenders: dict[str, Work] = {"bare": bare_steps(student, examples, steps, device)}
        for name, (members, _) in taught.items():
            contenders[f"usual, {name}"] = usual_loop(student, members, examples, device)
            contenders[f"package, {name}"] = through_package(members)
            contenders[f"cache, {name}"] = partial(write_cache, members)
        contenders["bfloat16"] = through_package(teachers, TrainingConfig(precision="bfloat16"))
        rates = take_turns(contenders, setup.rounds)
    lines = []
    for name, (_, target) in taught.items():
        ours, usual, written = (rates[f"{kind}, {name}"] for kind in ("package", "usual", "cache"))
        lines.append(Line(f"student taught by {name}, to the usual loop", divide(ours, usual), target))
        lines.append(Line(f"bare step, no teacher, to the usual loop with {name}", divide(rates["bare"], usual)))
        lines.append(Line(f"student's passes that writing the cache of {name} takes", divide(ours, written)))
    lines.append(
        Line(
            "student taught by 16 nets, bfloat16 products, to the usual loop",
            divide(rates["bfloat16"], rates["usual, 16 nets"]),
        )
    )
    return Part(lines, DISTILLATION_NOTES)
