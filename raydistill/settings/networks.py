"""The sections of settings for networks: how examples enter one, and how it is trained.

Comes in: a mapping. Goes out: the settings of generalist, specialists and student. Every description below is also what
`raydistill run --help` prints.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raydistill.settings.sections import Section

AUGMENTATIONS = ("flip", "crop", "rotate", "colour", "noise", "erase", "mixup")
NORMALISATIONS = ("auto", "data", "model", "unit", "none")
_NUMBERS = r"[\d.eE+-]+(?:,[\d.eE+-]+)*"
_STATISTICS = re.compile(rf"({_NUMBERS})/({_NUMBERS})")


class ArchitectureConfig(Section):
    """How examples enter a network, and the weights that it starts from."""

    input_size: tuple[int, ...] | None = Field(None)
    """height and width, or one number for both, to which the network resizes images as its first layer (bilinear,
    antialiased); left out: it takes them as they are"""
    normalise: str = "auto"
    """data: by mean and standard deviation of the training rows; model: as the model's pretrained weights want it, for
    each channel; unit: integers divided by 255; none: numbers as they are; MEAN/STD, such as 0.5/0.25 or
    0.49,0.46,0.41/0.23,0.22,0.23, after integers are divided by 255; auto: model where weights come from elsewhere and
    the model says so, else data"""
    weights: str | None = None
    """a file of weights to start from: .safetensors, or a state dict written by torch.save; an output layer for other
    classes is left out, and said so"""

    @field_validator("input_size", mode="before")
    @classmethod
    def _take_one_number(cls, value: Any) -> Any:
        parts = list(value) if isinstance(value, list | tuple) else value
        if isinstance(parts, str):
            parts = parts.split(",")
        if isinstance(parts, int):
            parts = [parts]
        return tuple(parts) * 2 if isinstance(parts, list) and len(parts) == 1 else parts

    @field_validator("input_size")
    @classmethod
    def _check_size(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (len(value) != 2 or min(value) < 1):
            raise ValueError("give a number of pixels, or two: HEIGHT,WIDTH")
        return value

    @field_validator("normalise")
    @classmethod
    def _check_normalise(cls, value: str) -> str:
        if value not in NORMALISATIONS:
            try:
                read_statistics(value)
            except ValueError:
                raise ValueError(
                    f"give one of {', '.join(NORMALISATIONS)}, or MEAN/STD such as 0.5/0.25, with STD above 0"
                ) from None
        return value


class TrainingConfig(Section):
    """How one network is trained. Its learning rate rises for a twentieth of the steps, then falls along a cosine."""

    epochs: int | None = Field(None, ge=1)
    """passes over the training rows, at most; left out: as many as take 12,000 steps, from 8 to 40"""
    batch_size: int | None = Field(None, ge=1)
    """examples in a step, over all workers together; left out: 256, or fewer so that a pass has at least 32 steps"""
    learning_rate: float = Field(3e-3, gt=0)
    """peak learning rate of AdamW"""
    weight_decay: float = Field(1e-4, ge=0)
    """decoupled weight decay of AdamW"""
    shift: int = Field(0, ge=0)
    """augmentation: random shifts of an image by up to so many pixels, afresh at each pass"""
    augment: tuple[str, ...] = ()
    """more augmentation, on the device: some of flip, crop, rotate, colour, noise, erase, mixup, and your own
    package.module:function of (batch, generator) that returns a batch"""
    max_norm: float | None = Field(None, gt=0)
    """longest vector of incoming weights that a unit may have; longer ones are shortened to it after each step"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """number type of the network's products while training; weights, losses and predictions stay float32"""
    compile: bool = False
    """let torch.compile fuse the network's operations while training; takes a compiler, and up to a minute each time a
    training starts or goes on, which pays where steps are long"""
    channels_last: bool = False
    """keep images' channels last in memory while training, which convolutions on a GPU's tensor cores want"""

    @field_validator("augment")
    @classmethod
    def _check_augment(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in AUGMENTATIONS and ":" not in name]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is unknown; give some of {', '.join(AUGMENTATIONS)}, or module:function")
        return names


class GeneralistConfig(ArchitectureConfig, TrainingConfig):
    """The network that knows every class."""

    weight_decay: float = Field(0.1, ge=0)
    """decoupled weight decay of AdamW; a generalist that underfits a little leaves more to its specialists"""
    model: str = "mlp"
    """mlp, cnn, timm:NAME, torchvision:NAME, hf:TYPE, hf:./FOLDER or hf:NAME of transformers, or
    package.module:function that takes (input_shape, classes, **options) and returns raw logits"""
    options: dict[str, Any] = Field(default_factory=dict)
    """keyword arguments of the model, for example {hidden: [192, 192]}; of hf:, what overrides its configuration;
    {pretrained: true} downloads pretrained weights of timm:, torchvision: and hf:NAME"""
    freeze: tuple[str, ...] = ()
    """parameters that training leaves as they are, specialists' too: backbone (all but the output layer), a number of
    first layers, or names such as layer1.* or blocks.0"""
    checkpoint: str | None = None
    """a trained generalist's file, .safetensors or a state dict by torch.save: it is taken as it is, not trained. Its
    probabilities must hold for the shares of balance.prior: natural, unless it was itself trained for others"""
    patience: int | None = Field(5, ge=1)
    """training ends when the loss on the confuse split has not improved for so many passes, and the best counts;
    null: it trains in full, and the last counts"""
    workers: int = Field(1, ge=1)
    """data-parallel Ray Train workers; 1 trains in the driver's process on a private Ray, else in one worker"""

    @model_validator(mode="after")
    def _check_checkpoint(self) -> GeneralistConfig:
        if self.checkpoint is not None and (self.weights is not None or self.options.get("pretrained")):
            raise ValueError(
                "checkpoint is a whole generalist, and weights are where training starts; give one of them"
            )
        return self


class SpecialistsConfig(TrainingConfig):
    """The networks that know one group of classes better."""

    # Table 8, 523 classes: 16 groups (the default) 1.39, 8 0.92, 32 1.47 (within the noise), 64 1.12
    groups: int | None = Field(None, ge=2)
    """number of specialists; left out: 0.7 times the square root of the number of classes"""
    epochs: int | None = Field(None, ge=1)
    """passes over a group's examples and as many others, at most; left out: 0.4 times the generalist's"""
    learning_rate: float = Field(1e-3, gt=0)
    """peak learning rate of AdamW"""
    patience: int | None = Field(8, ge=1)
    """training ends when the specialist has not improved on the confuse split for so many passes, and the best counts;
    null: it trains in full, and the last counts"""
    # Table 8: merged 1.39, soft 0.87, single -0.18
    dustbin: Literal["merged", "single", "soft"] = "merged"
    """merged: the dustbin is the logsumexp of all other classes' logits; single: the paper's one unit; soft: merged,
    and the other classes are learned from the generalist's soft targets (section 6.1 of the paper)"""
    group_share: float = Field(0.5, gt=0, lt=1)
    """share of a specialist's training examples that come from its own classes"""
    # Table 8: with 1.39, without 1.03
    prior_correction: bool = True
    """undo that share, so that a specialist's probabilities hold for the natural share of its classes"""
    on_failure: Literal["stop", "skip"] = "stop"
    """when a specialist fails at every attempt: stop, once all others are trained; or skip it, go on with the others,
    and say so in the report. Changing it redoes nothing that is finished; stop tries skipped ones again"""
    workers: int = Field(1, ge=1)
    """data-parallel Ray Train workers of one specialist, each with the needs of cluster.specialist; 1: all specialists
    share one pool of workers"""


class StudentConfig(ArchitectureConfig, TrainingConfig):
    """The one network that ships."""

    epochs: int | None = Field(None, ge=1)
    """passes over the transfer set; left out: 1.8 times the generalist's steps"""
    shift: int = Field(0, ge=0)
    """augmentation: shifts of an image by up to so many pixels, the same for teacher and student (see targets.views)"""
    augment: tuple[str, ...] = ()
    """more augmentation of these views: some of flip, crop, rotate, colour, noise, erase"""
    controls: bool = True
    """train the controls too: the same network, steps and seed; without, there is nothing to compare with"""
    labels_patience: int | None = Field(None, ge=1)
    """the control on labels only ends when the tune split has not improved for so many passes; left out: it trains in
    full, as the student does"""
    model: str | None = None
    """as generalist.model; left out: the generalist's own architecture, with its input_size and normalise, and, without
    options of its own, its weights"""
    options: dict[str, Any] = Field(default_factory=dict)
    """keyword arguments of the model"""

    @field_validator("augment")
    @classmethod
    def _check_views(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name == "mixup" or ":" in name:
                raise ValueError(
                    f"{name!r} is no function of one row, and the teacher's answers are stored by row and view;"
                    " give it to generalist.augment and specialists.augment alone"
                )
        return names


def read_statistics(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, of one or of each channel, from MEAN/STD. Raises ValueError if it is not that."""
    found = _STATISTICS.fullmatch(text.replace(" ", ""))
    if found is None:
        raise ValueError(text)
    mean, std = (tuple(float(number) for number in part.split(",")) for part in found.groups())
    if len(mean) != len(std) or min(std) <= 0:
        raise ValueError(text)
    return mean, std
