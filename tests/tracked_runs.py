"""Runs that are tracked, for tests of trackers."""

from builders import quick_config

from raydistill.commands.launch import launch
from raydistill.display import Silent
from raydistill.stages.networks import read_training


class Notes(Silent):
    """A display that keeps its notes."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def track(folder, display=None, *, names=("tensorboard",), on_change="refuse", until="report", **changes):
    wanted = {name: name in names for name in ("tensorboard", "mlflow", "wandb")}
    config = quick_config(folder, tracking=wanted, **changes)
    return launch(config, display=display or Notes(), on_change=on_change, until=until)


def list_histories(run):
    """Histories in the run folder by network."""
    folders = {"generalist": run.stage_folder("generalist")}
    folders |= {f"specialists/{index:03d}": run.specialist_folder(index) for index in range(3)}
    folders |= {name: run.student_folder(name) for name in ("student", "labels_only", "generalist_targets")}
    return {name: read_training(folder)["history"] for name, folder in folders.items()}
