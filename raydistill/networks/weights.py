"""Weights from elsewhere: safetensors files and what torch.save wrote of a state dict, matched with a network.

Comes in: a path, a network. Goes out: the network filled, or a ModelError that names the first keys that differ.
No pickle is loaded: torch files are read with weights_only.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.errors import ModelError, describe_in_line
from raydistill.networks.outputs import list_output_layers
from raydistill.words import list_some

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which trainers put a state dict into their checkpoints."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before every name."""
SHOWN_KEYS = 3


@dataclass(frozen=True)
class GivenWeights:
    """Tensors by name, and the names of the classes in their order, where the file says them."""

    tensors: dict[str, Tensor]
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Difference:
    """Names that a network has and the file not, the other way round, and those of other shapes."""

    missing: list[str]
    unexpected: list[str]
    misshapen: list[str]


def read_weights(path: Path | str, field: str) -> GivenWeights:
    """Read a file of weights. Raises ModelError if it is none, or holds more than tensors."""
    file = Path(path).expanduser()
    try:
        with open(file, "rb") as opened:
            start = opened.read(9)
        if start[8:] == b"{":  # safetensors: 8 bytes that tell the length of a JSON header
            return _read_safetensors(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other protocols, before it refuses what is no tensor
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = describe_in_line(error).partition(". ")[0][:200]
        raise ModelError(
            f"{field}: {str(file)!r} cannot be read as weights ({reason}); give a .safetensors file, or what"
            " torch.save(model.state_dict(), PATH) wrote"
        ) from None
    return GivenWeights(strip_prefixes(unwrap_state_dict(content, file, field)), _find_class_names(content))


def unwrap_state_dict(content: Any, file: Path, field: str) -> dict[str, Tensor]:
    """The state dict of a checkpoint, which may lie under a name such as 'state_dict'. Raises ModelError."""
    for name in (None, *WRAPPERS):
        inner = content if name is None else content.get(name) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping) and inner and all(isinstance(value, Tensor) for value in inner.values()):
            return {str(key): value for key, value in inner.items()}
    found = f"the keys {', '.join(map(str, list(content)[:SHOWN_KEYS]))}" if isinstance(content, Mapping) else "no dict"
    raise ModelError(
        f"{field}: {str(file)!r} holds {found} and no state dict; give what torch.save(model.state_dict(), PATH)"
        f" wrote, or have it under {' or '.join(WRAPPERS)}"
    )


def strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what wrappers put before all of their names."""
    while tensors:
        prefix = next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in tensors)), None)
        if prefix is None:
            break
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def find_prefix(model: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """What stands before the file's names in the model: the place at which the most of them are found."""
    known = model.state_dict().keys()
    places = ["", *(f"{name}." for name, _ in model.named_modules() if name)]
    return max(places, key=lambda place: sum(place + key in known for key in tensors))


def compare_weights(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> Difference:
    """How a file's tensors differ from the model's; names are the model's. First layers may be the model's own."""
    known = model.state_dict()
    placed = {prefix + name: tensor for name, tensor in tensors.items()}
    missing = [
        name
        for name in known
        if name not in placed and not name.startswith("normalise.") and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in placed if name not in known]
    misshapen = [name for name in placed if name in known and placed[name].shape != known[name].shape]
    return Difference(missing, unexpected, misshapen)


def fill_network(
    model: nn.Module, tensors: Mapping[str, Tensor], prefix: str, classes: int, source: str, field: str
) -> str:
    """Fill a model, but for an output layer of other classes, in place; returns what to tell the user.

    Raises ModelError if any other tensor is missing or of another shape. source: what the tensors come from.
    """
    difference = compare_weights(model, tensors, prefix)
    head = find_head_names(model, classes)
    left_out = [name for name in (*difference.missing, *difference.misshapen) if name in head]
    wrong = Difference(
        [name for name in difference.missing if name not in head],
        [],
        [name for name in difference.misshapen if name not in head],
    )
    if wrong.missing or wrong.misshapen:
        raise ModelError(
            f"{field}: {source!r} does not fit the model: {describe_difference(model, wrong, tensors, prefix)}"
        )
    load_tensors(model, tensors, prefix, {*difference.unexpected, *difference.misshapen})
    said = [f"weights of {source}"]
    if left_out:
        said.append(f"the output layer is new ({name_keys(left_out)} left out)")
    others = [name for name in difference.unexpected if name not in head]
    if others:
        said.append(f"{len(others)} tensors that the model has not are left out ({name_keys(others)})")
    return "; ".join(said)


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str, without: Iterable[str] = ()) -> None:
    """Put tensors into a model under a prefix, but for some of the model's names."""
    left_out = set(without)
    placed = {prefix + name: tensor for name, tensor in tensors.items() if prefix + name not in left_out}
    model.load_state_dict(placed, strict=False)


def describe_difference(model: nn.Module, difference: Difference, tensors: Mapping[str, Tensor], prefix: str) -> str:
    """The first keys that differ, in words."""
    said, known = [], model.state_dict()
    if difference.misshapen:
        name = difference.misshapen[0]
        have, want = tuple(tensors[name.removeprefix(prefix)].shape), tuple(known[name].shape)
        said.append(f"{name.removeprefix(prefix)} has shape {have} in the file and {want} in the model")
    if difference.missing:
        said.append(f"it lacks {name_keys(difference.missing, prefix)}")
    if difference.unexpected:
        said.append(f"the model lacks {name_keys(difference.unexpected, prefix)}")
    return "; ".join(said)


def find_head_names(model: nn.Module, classes: int) -> set[str]:
    """Names of the parameters of the output layers."""
    heads = {id(layer) for layer in list_output_layers(model, classes)}
    return {
        f"{name}.{own}" if name else own
        for name, module in model.named_modules()
        if id(module) in heads
        for own, _ in module.named_parameters()
    }


def name_keys(keys: Iterable[str], prefix: str = "") -> str:
    """The first keys, without a prefix, and how many more there are."""
    return list_some((key.removeprefix(prefix) for key in keys), SHOWN_KEYS)


def _read_safetensors(file: Path) -> GivenWeights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            said = json.loads((opened.metadata() or {}).get("raydistill", "{}"))
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    return GivenWeights(strip_prefixes(tensors), _find_class_names(said))


def _find_class_names(content: Any) -> tuple[str, ...] | None:
    """Names of the classes in their order, as trainers write them beside a state dict."""
    if not isinstance(content, Mapping):
        return None
    places = content.get("class_to_idx")
    if isinstance(places, Mapping) and places:
        return tuple(str(name) for name, _ in sorted(places.items(), key=lambda item: int(item[1])))
    for key in ("classes", "class_names"):
        names = content.get(key)
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return None
