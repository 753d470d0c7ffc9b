"""Networks of timm and torchvision by name; hf: is in hugging_face.py.

Comes in: a name such as 'timm:resnet10t', options, the stored shape, K. Goes out: a `Body` whose last layer gives raw
logits. The libraries are imported when a model of theirs is built, and nothing is downloaded unless `pretrained` asks.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from raydistill.errors import ModelError, describe_in_line
from raydistill.networks.inputs import Body, Statistics
from raydistill.networks.weights import fill_network, find_prefix

FORBIDDEN = {
    "checkpoint_path": "give weights: PATH, which is read without pickles",
    "pretrained_cfg": "give weights: PATH, and normalise: MEAN/STD",
    "pretrained_cfg_overlay": "give weights: PATH, and normalise: MEAN/STD",
    "weights": "give the setting weights: PATH, or pretrained: true to download",
    "num_classes": "the data say how many there are",
    "num_labels": "the data say how many there are",
    "trust_remote_code": "code of strangers is not run",
    "cache_dir": "set HF_HOME in the environment",
}
"""Options that are refused, and what to do instead."""


def import_library(library: str, name: str, field: str, extra: str) -> Any:
    """The module. Raises ModelError, with the remedy, where it is missing or cannot be imported."""
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{field}.model: {name!r} needs {error.name}, which is not installed; pip install 'raydistill[{extra}]'"
        ) from None
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise ModelError(
            f"{field}.model: {name!r} needs {library}, which cannot be imported here ({describe_in_line(error)}):"
            f" often, torchvision was built for another torch than {torch.__version__}; install the two that belong"
            " together"
        ) from None


def split_options(options: Mapping[str, Any], name: str, field: str) -> tuple[dict[str, Any], bool]:
    """The library's own options, and whether pretrained weights are asked for. Raises ModelError for those refused."""
    for option, remedy in FORBIDDEN.items():
        if option in options:
            raise ModelError(f"{field}.options: {option!r} is not allowed with {name!r}; {remedy}")
    own = dict(options)
    pretrained = own.pop("pretrained", False)
    if not isinstance(pretrained, bool):
        raise ModelError(f"{field}.options: pretrained = {pretrained!r} is not allowed; give true or false")
    return own, pretrained


def build_timm(name: str, options: Mapping[str, Any], classes: int, *, start: bool, field: str) -> Body:
    """A network of timm. start: with pretrained weights, if the options ask for them."""
    own, pretrained = split_options(options, name, field)
    timm, architecture = import_library("timm", name, field, "timm"), name.partition(":")[2]
    if not timm.is_model(architecture.partition(".")[0]):
        raise unknown_model(name, timm.list_models(), "timm.list_models()", field)
    with tell_download(name, field) if pretrained and start else contextlib.nullcontext():
        network = timm.create_model(architecture, pretrained=pretrained and start, num_classes=classes, **own)
    said = getattr(network, "pretrained_cfg", None) or {}
    channels = int(own.get("in_chans", 3))
    statistics = as_statistics(said.get("mean"), said.get("std"), channels)
    return Body(network, "images", channels, statistics, pretrained, note=describe_start(name, pretrained))


def build_torchvision(name: str, options: Mapping[str, Any], classes: int, *, start: bool, field: str) -> Body:
    """A network of torchvision.models. start: with pretrained weights, if the options ask for them."""
    own, pretrained = split_options(options, name, field)
    models, architecture = import_library("torchvision.models", name, field, "torchvision"), name.partition(":")[2]
    known_names = models.list_models(module=models)  # without those that segment and detect, which download backbones
    if architecture not in known_names:
        raise unknown_model(name, known_names, "torchvision.models.list_models(module=torchvision.models)", field)
    if architecture in ("googlenet", "inception_v3"):  # otherwise they answer with three tensors while they train
        own = {"aux_logits": False, "init_weights": True, **own}
    network = models.get_model(architecture, weights=None, num_classes=classes, **own)
    known = models.get_model_weights(architecture).DEFAULT
    transforms = known.transforms()
    statistics = as_statistics(getattr(transforms, "mean", None), getattr(transforms, "std", None), 3)
    note = describe_start(name, pretrained)
    if pretrained and start:
        with tell_download(name, field):
            tensors = known.get_state_dict(progress=False, check_hash=True, weights_only=True)
        tensors = {key: value for key, value in tensors.items() if not key.lower().startswith("aux")}
        note = fill_network(network, tensors, find_prefix(network, tensors), classes, name, f"{field}.options")
    return Body(network, "images", 3, statistics, pretrained, note=note)


def as_statistics(mean: Sequence[float] | None, std: Sequence[float] | None, channels: int) -> Statistics | None:
    """Means and standard deviations, if the library says both, for so many channels; for others, their means."""
    if not mean or not std:
        return None
    if len(mean) != channels:
        mean, std = [sum(mean) / len(mean)], [sum(std) / len(std)]
    return tuple(map(float, mean)), tuple(map(float, std))


def describe_start(name: str, pretrained: bool) -> str:
    """What to tell the user of the weights that a network starts from."""
    return f"{name} starts from its pretrained weights, with a new output layer" if pretrained else ""


def unknown_model(name: str, known: Sequence[str], where: str, field: str) -> ModelError:
    """The error for a name that the library has not."""
    near = difflib.get_close_matches(name.partition(":")[2], known, n=1)
    remedy = f"did you mean {name.partition(':')[0]}:{near[0]}?" if near else f"give a name of {where}"
    return ModelError(f"{field}.model: {name!r} is not allowed: there is no such model; {remedy}")


@contextlib.contextmanager
def tell_download(name: str, field: str) -> Iterator[None]:
    """Turn whatever a download raises into a ModelError; no pickle is loaded meanwhile."""
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # each library and its network stack have their own
        raise ModelError(
            f"{field}.options: what {name!r} asks for cannot be had ({describe_in_line(error)[:300]});"
            " give weights: PATH, a file that is here, or leave pretrained out"
        ) from None
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before
