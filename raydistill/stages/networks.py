"""Trained networks on disk: a folder each, with weights, the history of training, and a finished mark that verifies.

weights.safetensors    all parameters and buffers
training.json          history by epoch, best epoch, and the checksum of the weights: the finished mark
checkpoint.safetensors while training: weights, optimiser and history of the last epoch
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from raydistill.data.arrays import Examples, read_normalisation, read_split, read_transfer_rows
from raydistill.execution.jobs import Role
from raydistill.networks.architecture import Architecture, generalist_architecture, student_architecture
from raydistill.networks.frozen import freeze_parameters, trained_state
from raydistill.networks.models import Model, build_model
from raydistill.networks.weights import fill_network, find_prefix, read_weights
from raydistill.settings.config import Config
from raydistill.storage.files import hash_file, read_json, read_tensors, write_json, write_tensors
from raydistill.storage.folders import refresh, remove
from raydistill.storage.run_folder import RunFolder
from raydistill.training.batches import choose_batch_size
from raydistill.training.loop import Progress, copy_weights
from raydistill.training.seeds import mix_seed
from raydistill.training.workers import device_of, worker_rank

SEEDS = {"generalist": 1, "specialist": 2, "student": 3}
DEFAULT_STEPS, FEWEST_PASSES, MOST_PASSES = 12_000, 8, 40  # of a generalist whose epochs are left out
DEFAULT_SHARES = {"generalist": (1.0, 1), "specialist": (0.4, 3), "student": (1.8, 1)}
"""Passes of each role as a share of the generalist's, and the fewest."""


def network_seed(config: Config, role: str, index: int = 0) -> int:
    """Seed of one network's weights and batches."""
    return mix_seed(config.seed, SEEDS[role], index)


def count_passes(run: RunFolder, config: Config, role: Role) -> int:
    """Passes of a training: as set, or so many that the generalist takes DEFAULT_STEPS, and the others their share."""
    if role == "trial":
        return config.search.epochs or max(2, round(count_passes(run, config, "student") / 6))
    settings = {"generalist": config.generalist, "specialist": config.specialists, "student": config.student}
    given = settings[role].epochs
    if given is not None:
        return given
    rows, share, fewest = len(read_split(run, "fit")), *DEFAULT_SHARES[role]
    if role == "student":
        transfer = len(read_transfer_rows(run))
        share *= max(1.0, rows / transfer)  # a smaller transfer set is seen more often
        rows = max(rows, transfer)  # a larger one, by unlabeled rows, as a generalist of so many rows would be
    steps = rows / (config.generalist.batch_size or choose_batch_size(rows))
    passes = config.generalist.epochs or min(max(round(DEFAULT_STEPS / steps), FEWEST_PASSES), MOST_PASSES)
    return max(fewest, round(share * passes))


def build_generalist(
    run: RunFolder, config: Config, examples: Examples, index: int = 0, *, start: bool = False
) -> Model:
    """The generalist's architecture with seeded weights, and what is frozen of it.

    index: 0 for the run's own, else that of another seed. start: with the weights that its training starts from; else
    it is to be filled. Raises ModelError if it does not fit the data, or the weights do not fit it.
    """
    seed, settings = network_seed(config, "generalist", index), config.generalist
    model = _build(run, generalist_architecture(config), examples, seed, start=start)
    freeze_parameters(model, settings.freeze, examples.classes, "generalist.freeze")
    return model


def build_student(run: RunFolder, config: Config, examples: Examples, *, start: bool = False) -> Model:
    """The student's architecture with seeded weights; the generalist's, unless student.model names another."""
    return _build(run, student_architecture(config), examples, network_seed(config, "student"), start=start)


def _build(run: RunFolder, architecture: Architecture, examples: Examples, seed: int, *, start: bool) -> Model:
    model = build_model(
        architecture.model,
        architecture.options,
        input_shape=examples.input_shape,
        classes=examples.classes,
        normalisation=read_normalisation(run.stage_folder("splits")),
        seed=seed,
        dtype=examples.x.dtype,
        input_size=architecture.input_size,
        normalise=architecture.normalise,
        filled=(architecture.given or architecture.weights) is not None,
        start=start,
        field=architecture.role,
    )
    if start and architecture.weights is not None:
        model.note = fill_from_file(model, architecture, examples.classes)
    return model


def fill_from_file(model: Model, architecture: Architecture, classes: int) -> str:
    """Fill a network with weights from a file, but for an output layer of other classes; what to tell the user."""
    field = f"{architecture.role}.weights"
    path = str(architecture.weights)
    tensors = read_weights(path, field).tensors
    if architecture.normalise != "auto":  # what the user says goes before what the file has
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("normalise.")}
    return fill_network(model, tensors, find_prefix(model, tensors), classes, path, field)


def train_once(
    folder: Path, train: Callable[[Path], tuple[nn.Module, Progress]], *, whole: bool = True
) -> dict[str, Any]:
    """Train a network unless its folder holds the finished one. `train` is given the checkpoint's path.

    whole: its file has all weights; else, frozen ones are left out. Returns what training.json holds.
    """
    refresh(folder)  # what another node may have done of it
    checkpoint = folder / "checkpoint.safetensors"
    if not is_trained(folder):
        model, progress = train(checkpoint)
        if worker_rank()[0] != 0:
            return {"history": progress.history, "best_epoch": progress.best_epoch}
        weights = copy_weights(model) if whole else trained_state(model)
        write_network(folder, weights, {"history": progress.history, "best_epoch": progress.best_epoch})
    if checkpoint.exists():  # a process that was killed here left it
        remove(checkpoint)
    return read_training(folder)


def write_network(folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write a finished network's weights, and then its record with their checksum: the finished mark."""
    write_tensors(folder / "weights.safetensors", weights)
    write_json(folder / "training.json", {**record, "sha256": hash_file(folder / "weights.safetensors")})


def is_trained(folder: Path) -> bool:
    """Whether the folder holds a finished network whose weights verify."""
    try:
        return bool(read_training(folder)["sha256"] == hash_file(folder / "weights.safetensors"))
    except (OSError, ValueError, KeyError):
        return False


def read_training(folder: Path) -> dict[str, Any]:
    """What training left: history by epoch, best epoch, checksum."""
    return read_json(folder / "training.json")  # type: ignore[no-any-return]


def read_repair(folder: Path) -> dict[str, Any] | None:
    """The biases that were repaired after a student's training: classes, offsets in nats; None where none were."""
    path = folder / "repair.json"
    return read_json(path) if path.exists() else None


def load_weights(model: nn.Module, folder: Path) -> nn.Module:
    """Fill a model with a finished network's weights, in evaluation mode."""
    model.load_state_dict(read_tensors(folder / "weights.safetensors")[0])
    return model.eval()


def load_specialist(model: nn.Module, folder: Path, generalist: nn.Module) -> nn.Module:
    """Fill a model with a finished specialist's weights, in evaluation mode, on the generalist's device.

    What is frozen it has from the generalist, with whom it shares memory. Raises RuntimeError if others are missing.
    """
    device = device_of(generalist)
    own = {name: tensor.to(device) for name, tensor in read_tensors(folder / "weights.safetensors")[0].items()}
    trained = trained_state(model).keys()
    shared = {name: tensor for name, tensor in generalist.state_dict().items() if name not in trained}
    model.load_state_dict({**shared, **own}, assign=True)
    return model.to(device).eval()
