"""Networks of transformers that classify images or sequences of token ids: hf:TYPE, hf:FOLDER, hf:NAME.

Comes in: a type such as 'vit' or 'bert', a folder of save_pretrained, or a name on the Hub; options, which override
its configuration; the stored shape, K. Goes out: a `Body`. Weights are read from safetensors alone, and the Hub is
asked for no more than `pretrained` says.
"""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.errors import ModelError
from raydistill.networks.architecture import find_folder
from raydistill.networks.inputs import Body, Statistics
from raydistill.networks.libraries import as_statistics, import_library, split_options, tell_download
from raydistill.networks.weights import name_keys


class ImageClassifier(nn.Module):
    """A network of transformers as a function of images (B, C, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K)."""
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


class TokenClassifier(nn.Module):
    """A network of transformers as a function of token ids (B, L); those equal to `pad` are not attended to."""

    def __init__(self, model: nn.Module, pad: int | None) -> None:
        super().__init__()
        self.model = model
        self.pad = pad

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, L) of any integer type; returns logits (B, K)."""
        ids = tokens.long()
        if self.pad is None:
            mask = torch.ones_like(ids)
        else:
            known = ids != self.pad
            mask = (known | ~known.any(dim=1, keepdim=True)).long()  # nothing but padding: attention needs something
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        return logits


def build_hugging_face(
    name: str, options: Mapping[str, Any], input_shape: tuple[int, ...], classes: int, *, start: bool, field: str
) -> Body:
    """A network of transformers. start: with the weights of its folder, or those that the options ask for."""
    transformers = import_library("transformers", name, field, "transformers")
    source = name.partition(":")[2]
    folder = find_folder(source)
    if folder is not None:
        source, options = str(folder), {"pretrained": has_weights(folder), **options}
    own, pretrained = split_options(options, name, field)
    typed = folder is None and source in transformers.CONFIG_MAPPING
    if folder is None and not typed and "pretrained" not in options:
        raise ModelError(
            f"{field}.model: {name!r} is neither a folder (./vit) nor a type (vit, bert); for a model of the Hub, give"
            " options pretrained: true (downloads its weights) or false (its configuration alone)"
        )
    if typed and pretrained:
        raise ModelError(
            f"{field}.options: {name!r} is a type and has no pretrained weights; name a model of the Hub, or a folder"
        )
    auto = transformers.AutoConfig
    with quiet_library(transformers), contextlib.nullcontext() if typed else tell_download(name, field):
        read = auto.for_model if typed else partial(auto.from_pretrained, trust_remote_code=False)
        check_options(read(source), own, name, field)
        config = read(source, num_labels=classes, **own)
        images = choose_kind(transformers, config, input_shape, name, field)
        factory = (
            transformers.AutoModelForImageClassification if images else transformers.AutoModelForSequenceClassification
        )
        network, note = (
            load_pretrained(factory, source, config, name, field)
            if pretrained and start
            else (factory.from_config(config, trust_remote_code=False), "")
        )
    network.float()
    if not images:
        text = config.get_text_config()
        return Body(TokenClassifier(network, text.pad_token_id), "tokens", vocabulary=text.vocab_size, note=note)
    channels = int(getattr(config, "num_channels", 3))
    statistics = read_processor(transformers, source, channels) if pretrained and start else None
    return Body(ImageClassifier(network), "images", channels, statistics, pretrained, note=note)


def has_weights(folder: Path) -> bool:
    """Whether a folder holds weights that may be read."""
    return bool(list(folder.glob("*.safetensors")))


def check_options(config: Any, options: Mapping[str, Any], name: str, field: str) -> None:
    """Raise ModelError for options that a configuration does not know; transformers would take any."""
    for option in options:
        if not hasattr(config, option):
            near = difflib.get_close_matches(option, config.to_dict(), n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"see {type(config).__name__} of transformers"
            raise ModelError(f"{field}.options: {name!r} knows no {option!r}; {remedy}")


def choose_kind(transformers: Any, config: Any, input_shape: tuple[int, ...], name: str, field: str) -> bool:
    """Whether it classifies images; else, sequences. Raises ModelError if it does neither."""
    images = type(config) in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    sequences = type(config) in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if not images and not sequences:
        raise ModelError(
            f"{field}.model: {name!r} is not allowed: transformers has no network of type {config.model_type!r} that"
            " classifies images or sequences"
        )
    return images and (not sequences or len(input_shape) > 1)


def load_pretrained(factory: Any, source: str, config: Any, name: str, field: str) -> tuple[nn.Module, str]:
    """The network with its pretrained weights, and what to tell of them. Raises ModelError if they are for another."""
    network, report = factory.from_pretrained(
        source,
        config=config,
        trust_remote_code=False,
        dtype=torch.float32,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    misshapen = [entry[0] if isinstance(entry, tuple) else entry for entry in report["mismatched_keys"]]
    fresh = sorted({*report["missing_keys"], *misshapen})
    body = [key for key in fresh if key.startswith(f"{network.base_model_prefix}.") and "pooler" not in key]
    if body:
        raise ModelError(
            f"{field}.model: the weights of {name!r} do not fit its configuration and options; first keys that differ:"
            f" {name_keys(body)}"
        )
    note = f"weights of {name}"
    return network, f"{note}; new, because it has none that fit: {name_keys(fresh)}" if fresh else note


def read_processor(transformers: Any, source: str, channels: int) -> Statistics | None:
    """Mean and standard deviation for each channel of the model's image processor, where it has one."""
    try:
        if Path(source).is_dir():
            said = json.loads((Path(source) / "preprocessor_config.json").read_text(encoding="utf-8"))
        else:
            said = transformers.ImageProcessingMixin.get_image_processor_dict(source)[0]
    except (OSError, ValueError):
        return None
    return as_statistics(said.get("image_mean"), said.get("image_std"), channels)


@contextlib.contextmanager
def quiet_library(transformers: Any) -> Iterator[None]:
    """Keep transformers from reports and progress bars of its own: errors tell what matters."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
