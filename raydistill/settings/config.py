"""Settings: one frozen section for each stage; a YAML file plus overrides gives a Config.

Comes in: a mapping (from YAML), command-line flags. Goes out: a validated `Config`, or a `ConfigError` of one line.
Every description below is also what `raydistill run --help` prints. The sections of networks, images,
growing, tracking and the cluster have modules of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from raydistill.errors import ConfigError
from raydistill.settings.cluster import ClusterConfig
from raydistill.settings.credentials import check_credentials
from raydistill.settings.growing import GrowConfig
from raydistill.settings.images import ImagesConfig
from raydistill.settings.networks import GeneralistConfig, SpecialistsConfig, StudentConfig
from raydistill.settings.sections import Section, describe_validation_error
from raydistill.tracking.settings import TrackingConfig


class SplitsConfig(Section):
    """Which share of the examples serves which purpose."""

    confuse: float = Field(0.1, gt=0, lt=0.5)
    """share of the training examples that measures confusions and stops training early"""
    tune: float = Field(0.1, gt=0, lt=0.5)
    """share of the training examples that the search and the choice of student look at"""
    test: float = Field(0.12, gt=0, lt=0.5)
    """share held out for the report, where the data bring no test set of their own"""
    rare: Literal["refuse", "allow"] = "refuse"
    """classes with fewer training examples than splits: refuse; or allow them to be absent from confuse, tune or test
    (an example goes to fit, the next to test, confuse, tune): what such a split measures then leaves them out"""
    keep_apart: str | None = None
    """name of an array (npz) or column (parquet, hf); examples with the same value stay in one split (typeface,
    patient, ...)"""
    column: str | None = None
    """name of an array (npz) or column (parquet, hf) that says of each example train, confuse, tune (or validation) or
    test; a split of which nothing is said is drawn from train"""


class GlyphsConfig(Section):
    """The embedded character set (only for --data glyphs)."""

    variants: int = Field(24, ge=4, le=1000)
    """random variants of each letter and typeface"""
    size: int = Field(20, ge=8, le=64)
    """height and width of an image, in pixels"""


class GroupingConfig(Section):
    """How confused classes are put into groups."""

    affinity: Literal["soft", "hard", "covariance"] = "soft"
    """soft: sums of probabilities by true class; hard: counts of predicted classes; covariance: needs no labels;
    for up to 8192 classes"""
    # Table 8 of benchmarks/RESULTS.md, points that specialists add: spectral 1.39, random 0.75, k-means 0.07
    method: Literal["spectral", "kmeans", "random"] = "spectral"
    """spectral clustering of the affinity; the paper's k-means on the covariance's columns, for up to 8192
    classes; random: spectral groups whose classes are exchanged at random, a control that shows what knowing the
    confusions is worth"""
    # Table 8: 1.39; none 1.21, by the group's own size 1.36
    overlap: float = Field(0.5, ge=0, le=4)
    """each group grows by this share of its size, with the classes that it is most confused with"""
    size: int | None = Field(None, ge=2)
    """each group grows to this many classes instead; larger groups stay as they are"""
    bootstraps: int = Field(5, ge=0)
    """resamplings of the confuse split that measure how stable the groups are; 0: not measured"""


class BalanceConfig(Section):
    """What is done for rare classes, alike for generalist, specialists and student, so that they can be combined."""

    prior: Literal["natural", "sqrt", "equal"] = "natural"
    """for which shares of classes the probabilities hold: natural, those of the training rows; equal: all classes are
    as frequent (the logit-adjusted loss of Menon et al. 2021), which is what balanced accuracy wants; sqrt: between"""
    sampling: Literal["natural", "sqrt", "equal"] = "natural"
    """how often classes are sampled while training: as they are; equal: all as often; sqrt: between. The loss takes it
    into account, so that probabilities hold for the shares of balance.prior all the same"""


class EnsembleConfig(Section):
    """How generalist and specialists are combined (equation 5)."""

    # Table 8: 1.39; of the 2 most probable 1.50, 3 1.48, 5 1.47: within the noise, for more networks to ask
    top_n: int = Field(1, ge=1)
    """a specialist is asked when its classes meet the generalist's so many most probable classes"""


class TeacherConfig(Section):
    """What the student learns from."""

    kind: Literal["specialists", "seeds", "generalist"] = "specialists"
    """specialists: generalist and specialists, by equation 5; seeds: generalists that differ by their seeds;
    generalist: it alone, no specialists are trained"""
    seeds: int = Field(0, ge=0)
    """generalists that differ by their seeds, the first one counted: kind seeds needs 2 or more; with specialists they
    teach one more control (equal compute), 0 for none"""
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    """how the seeds' probabilities are averaged"""

    @model_validator(mode="after")
    def _check_seeds(self) -> TeacherConfig:
        if self.seeds == 1 or (self.kind == "seeds" and self.seeds < 2):
            raise ValueError(f"seeds = {self.seeds} is no ensemble; give --teacher.seeds 2 or more")
        if self.kind == "generalist" and self.seeds:
            raise ValueError(
                "seeds serve no purpose with kind generalist; leave seeds out, or give --teacher.kind seeds"
            )
        return self


class TransferConfig(Section):
    """The examples that the student learns from (the transfer set): training rows, and examples without labels."""

    share: float = Field(1.0, gt=0, le=1)
    """share of each class's training rows"""
    only: tuple[str, ...] = ()
    """names of the classes that it has; left out: all"""
    without: tuple[str, ...] = ()
    """names of classes that it has not"""
    unlabeled: str | None = None
    """examples without labels, all of which it has: npz:PATH (array x), arrays:DIR or images:FOLDER (files at any
    depth, of the run's own size, or decoded as its images are); the student learns them from the teacher alone"""
    repair: Literal["auto", "never"] = "auto"
    """auto: biases of classes that are absent or rare there are fitted on the tune split when the student is trained"""


class TargetsConfig(Section):
    """The cache of soft targets."""

    views: int | None = Field(None, ge=1)
    """views of an image, each with the teacher's answer to that very view, which the student sees in turn; left out: 8
    where there is a student.shift or student.augment, else 1. The first view is the image as it is"""

    dense_classes: int = Field(1024, ge=2)
    """up to so many classes, every log-probability is stored; above, the most important ones and the rest's mass"""
    top_k: int = Field(128, ge=2)
    """classes stored for an image in the sparse form"""
    tail_rank: int | None = Field(None, ge=0)
    """numbers for each image, at most, that say in the sparse form how the rest's mass is spread over its classes; 0:
    evenly; left out: 192 above 4096 classes, else 0, because their product with a basis takes a part of each step"""


class SearchConfig(Section):
    """The search for temperature and label weight by Ray Tune."""

    trials: int = Field(8, ge=1)
    """pairs of temperature and label weight to try; none where both ranges are a single value"""
    epochs: int | None = Field(None, ge=1)
    """passes of a trial over the training rows, at most; left out: a sixth of the student's"""
    grace_epochs: int = Field(1, ge=1)
    """passes before a trial may be stopped"""
    reduction_factor: int = Field(2, ge=2)
    """of so many trials, one goes on at each halving (ASHA)"""
    temperature: tuple[float, float] | None = None
    """range, searched log-uniformly; left out: from 1 to 1.5 times the student's width / classes, 2 to 20"""
    label_weight: tuple[float, float] = (0.0, 0.5)
    """range of the labels' weight in the loss, searched uniformly"""

    @field_validator("temperature")
    @classmethod
    def _check_temperature(cls, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        if bounds is not None and not 0 < bounds[0] <= bounds[1] < math.inf:
            raise ValueError("give two numbers LOW,HIGH with 0 < LOW <= HIGH")
        return bounds

    @field_validator("label_weight")
    @classmethod
    def _check_label_weight(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= bounds[0] <= bounds[1] <= 1:
            raise ValueError("give two numbers LOW,HIGH with 0 <= LOW <= HIGH <= 1")
        return bounds


class ReportConfig(Section):
    """What the report shows beside its models."""

    int8: bool = False
    """the student in 8-bit integers, too, and what that costs; needs pip install 'raydistill[onnx]'"""


class Config(Section):
    """All settings of a run."""

    data: str
    """images:FOLDER (a folder for each class, or train/, test/ and so on of these); 'parquet:PATH?x=COLUMN&y=COLUMN'
    (PATH: also s3://bucket/folder); 'hf:NAME@CONFIG?x=COLUMN&y=COLUMN' (or a folder of save_to_disk);
    'torchvision:NAME?root=FOLDER'; npz:PATH (x_train, y_train, optional x_test, y_test, class_names); arrays:DIR (what
    raydistill ingest wrote); openml:NAME; digits; glyphs. Quote names with ? and &, which mean something to shells"""
    run_dir: str
    """folder of the run, or a URI such as s3://bucket/folder: all is written there; the same command resumes it"""
    grow_from: str | None = None
    """a finished run on earlier data, whose networks this one starts from; what the new data do not reach is kept"""
    seed: int = Field(0, ge=0, lt=2**31)
    """seed of splits, initial weights, batches and search"""
    splits: SplitsConfig = SplitsConfig()
    images: ImagesConfig = ImagesConfig()
    glyphs: GlyphsConfig = GlyphsConfig()
    generalist: GeneralistConfig = GeneralistConfig()
    grouping: GroupingConfig = GroupingConfig()
    specialists: SpecialistsConfig = SpecialistsConfig()
    balance: BalanceConfig = BalanceConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    teacher: TeacherConfig = TeacherConfig()
    transfer: TransferConfig = TransferConfig()
    targets: TargetsConfig = TargetsConfig()
    search: SearchConfig = SearchConfig()
    student: StudentConfig = StudentConfig()
    grow: GrowConfig = GrowConfig()
    report: ReportConfig = ReportConfig()
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("run_dir", "grow_from", mode="before")
    @classmethod
    def _take_path(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value


def build_config(values: Mapping[str, Any]) -> Config:
    """Validate a nested mapping. Raises ConfigError, a line that names field, value, what is allowed and the remedy."""
    check_credentials(values)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error, Config)) from None
