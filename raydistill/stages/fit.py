"""Whether the networks of a run fit its data and their weights fit them, before anything is trained.

Comes in: settings and data. Goes out: both, or a ModelError; notes on the weights that networks start from.
"""

from __future__ import annotations

from raydistill.data.arrays import Examples
from raydistill.errors import ModelError
from raydistill.networks.models import Model, find_output_layer
from raydistill.stages.context import Context
from raydistill.stages.given import load_given
from raydistill.stages.networks import build_generalist, build_student
from raydistill.stages.roles import has_specialists

BLOCK_ROWS = 1 << 16


def check_networks(context: Context) -> tuple[Model, Model]:
    """Build generalist and student as their trainings will, and return both. Raises ModelError.

    Weights from elsewhere are read only where the stage that needs them is not finished.
    """
    run, config, examples = context.run, context.config, context.examples
    finished = run.read_manifest()["stages"]
    if config.generalist.checkpoint is not None and "generalist" not in finished:
        generalist = load_given(run, config, examples)
    else:
        generalist = build_generalist(run, config, examples, start="generalist" not in finished)
    student = build_student(run, config, examples, start="student" not in finished)
    for role, model in (("generalist", generalist), ("student", student)):
        check_tokens(model, examples, role)
        if model.note:
            context.display.note(f"{role}: {model.note}")
    if has_specialists(config) and config.specialists.dustbin == "single":
        check_head_is_trained(generalist, examples.classes)
    return generalist, student


def check_tokens(model: Model, examples: Examples, role: str) -> None:
    """Raise ModelError if the data have token ids that the model does not know."""
    if model.vocabulary is None:
        return
    blocks = examples.x.split(BLOCK_ROWS)
    smallest, largest = min(int(block.min()) for block in blocks), max(int(block.max()) for block in blocks)
    if smallest < 0 or largest >= model.vocabulary:
        raise ModelError(
            f"{role}.model: it knows token ids from 0 to {model.vocabulary - 1}, and the data have {smallest} to"
            f" {largest}; set options vocab_size to {largest + 1} or more, or take the tokenizer that it was made with"
        )


def check_head_is_trained(generalist: Model, classes: int) -> None:
    """Raise ModelError if the output layer is frozen, whose unit a single dustbin changes."""
    layer = find_output_layer(generalist, classes)
    if layer is not None and not layer.weight.requires_grad:
        raise ModelError(
            "generalist.freeze: the output layer is frozen, and specialists.dustbin single changes it;"
            " leave it to train, or take dustbin merged"
        )
