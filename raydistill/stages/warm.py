"""Networks of a grown run that start from the old run's weights, by output rows of the same class names.

Comes in: what the stage origin took from the old run. Goes out: weights to start from, and how many passes follow.

Where balance.prior is another one than in the old run, no network starts warm and no specialist is kept: what they say
holds for other shares of classes, and after few passes a network is between the two (measured: after one pass from
natural to equal, frequent classes had 0.61 of the probability where they should have 0.33; equation 5 would mix that).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from raydistill.data.arrays import Examples
from raydistill.method.growing import map_weights
from raydistill.settings.config import BalanceConfig, Config
from raydistill.stages.context import Context
from raydistill.stages.roles import list_students
from raydistill.storage.files import read_json, read_tensors
from raydistill.storage.run_folder import ORIGIN, RunFolder


def start_warm(run: RunFolder, config: Config, model: nn.Module, name: str, examples: Examples) -> nn.Module:
    """The model with the old network's weights, where there is an old one of this name; else as it is.

    name: 'generalist', 'seeds/001', 'student/student' and so on. Raises ModelError for another architecture.
    """
    if is_warm(run, config, name):
        model.load_state_dict(map_network(run, model, name, examples))
    return model


def is_warm(run: RunFolder, config: Config, name: str) -> bool:
    """Whether the old run has a network of this name, whose probabilities hold for the same shares of classes."""
    return config.grow_from is not None and has_network(run, name) and read_old_prior(run) == config.balance.prior


def has_network(run: RunFolder, name: str) -> bool:
    """Whether the old run has a network of this name."""
    return (run.stage_folder(ORIGIN) / "networks" / name / "training.json").exists()


def read_old_prior(run: RunFolder) -> str:
    """The old run's balance.prior."""
    return str(read_old_settings(run)["balance"]["prior"])


def read_old_settings(run: RunFolder) -> dict[str, Any]:
    """The old run's settings; before there was a balance, it was as it is by default."""
    origin = read_json(run.stage_folder(ORIGIN) / "origin.json")
    return {"balance": BalanceConfig().model_dump(mode="json"), **origin["settings"]}


def list_warm(run: RunFolder, config: Config) -> list[str]:
    """Names of this run's networks that start warm; a generalist that is given is not trained."""
    names = [] if config.generalist.checkpoint is not None else ["generalist"]
    names += [f"seeds/{index:03d}" for index in range(1, config.teacher.seeds)]
    names += [f"student/{name}" for name in list_students(config)]
    return [name for name in names if is_warm(run, config, name)]


def count_warm_passes(run: RunFolder, config: Config, name: str, passes: int) -> int:
    """Passes of a network's training: its share of them where it starts warm."""
    return max(1, round(config.grow.passes * passes)) if is_warm(run, config, name) else passes


def map_network(run: RunFolder, model: nn.Module, name: str, examples: Examples) -> dict[str, Any]:
    """Weights of an old network for the new classes; rows of new classes as the model has them.

    What a specialist's file leaves out, it shares with the old generalist.
    """
    folder = run.stage_folder(ORIGIN)
    tensors = read_tensors(folder / "networks" / name / "weights.safetensors")[0]
    if name.startswith("specialists/"):
        tensors = read_tensors(folder / "networks" / "generalist" / "weights.safetensors")[0] | tensors
    return map_weights(tensors, model, read_json(folder / "origin.json")["classes"], examples.class_names)


def check_warm(context: Context, generalist: nn.Module, student: nn.Module) -> None:
    """Whether all networks that start warm can, before any is trained; a note where none may. Raises ModelError."""
    run, config = context.run, context.config
    for name, model in [("generalist", generalist), *((f"student/{name}", student) for name in list_students(config))]:
        if is_warm(run, config, name):
            map_network(run, model, name, context.examples)
    if config.grow_from is not None and read_old_prior(run) != config.balance.prior:
        context.display.note(
            f"balance.prior is {config.balance.prior} and was {read_old_prior(run)} in the old run, so that its"
            " networks' probabilities hold for other shares of classes: groups and splits are kept, and all networks"
            " are trained anew"
        )
