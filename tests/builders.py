"""Small data, models and runs for tests."""

import numpy as np
import torch

from raydistill.data.arrays import Examples
from raydistill.display import Silent
from raydistill.execution.in_process import InProcess
from raydistill.pipeline import run_pipeline
from raydistill.settings.config import Config, build_config
from raydistill.settings.networks import TrainingConfig

QUICK = {
    "generalist": {"epochs": 4, "options": {"hidden": [24]}},
    "specialists": {"groups": 3, "epochs": 2},
    "grouping": {"bootstraps": 2},
    "search": {"trials": 3, "epochs": 2},
    "student": {"epochs": 4},
    "cluster": {"backend": "none"},
}


def quick_config(run_dir, **changes) -> Config:
    """A run on digits that takes a second or two."""
    settings = {"data": "digits", "run_dir": run_dir, **QUICK}
    for name, value in changes.items():
        settings[name] = {**settings[name], **value} if isinstance(settings.get(name), dict) else value
    return build_config(settings)


def whole_config(run_dir, **changes) -> Config:
    """As quick_config, with every stage and with views."""
    return quick_config(run_dir, **{"teacher": {"seeds": 2}, "student": {"shift": 1}, **changes})


def run_quick(config, display=None, **options):
    """Run the pipeline in this process."""
    return run_pipeline(config, display=display or Silent(), start_executor=lambda run: InProcess(), **options)


class Recorder(Silent):
    """skipped: whether each stage was, in their order."""

    def __init__(self):
        self.skipped = []

    def end_stage(self, seconds, skipped):
        self.skipped.append(skipped)


def list_results(run):
    """Checksums of all results but the report, which tells times."""
    return {name: record["files"] for name, record in run.read_manifest()["stages"].items() if name != "report"}


def make_examples(count=400, classes=5, features=6, seed=0) -> Examples:
    """Gaussian blobs."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=generator)
    centres = 2 * torch.randn(classes, features, generator=generator)
    x = centres[y] + torch.randn(count, features, generator=generator)
    return Examples(x, y, tuple(str(index) for index in range(classes)))


def settings(**changes) -> TrainingConfig:
    """Training settings for blobs."""
    return TrainingConfig(**{"epochs": 5, "batch_size": 32, "learning_rate": 1e-2, **changes})


def estimate_gradient(loss, logits, step=1e-5):
    """Central differences of the mean of loss(logits), which returns values and their gradient; float64 (B, K)."""
    estimate = torch.zeros_like(logits)
    for place in np.ndindex(*logits.shape):
        moved = torch.zeros_like(logits)
        moved[place] = step
        estimate[place] = (loss(logits + moved)[0].mean() - loss(logits - moved)[0].mean()) / (2 * step)
    return estimate
