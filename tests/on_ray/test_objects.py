"""A Ray Dataset as data, and a run from Python that starts a Ray of its own and ends it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.data

from raydistill.data.stored import give_data
from raydistill.errors import DataError
from raydistill.on_ray.session import RaySession

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # Ray Data's, of its own settings
COUNT = 1300
X = np.random.default_rng(0).integers(0, 256, (COUNT, 3, 4), dtype=np.uint8)
Y = np.array(["a", "b", "c"])[np.arange(COUNT) % 3]


def test_a_ray_dataset_is_the_same_data_as_its_arrays(ray_session: RaySession, tmp_path: Path) -> None:
    rows = [{"image": image, "label": str(label)} for image, label in zip(X, Y, strict=True)]
    dataset = ray.data.from_items(rows, override_num_blocks=7).map(lambda row: row)
    assert give_data(dataset, tmp_path) == give_data((X, Y), tmp_path)
    halves = {"train": dataset.limit(900), "test": ray.data.from_items(rows[900:])}
    assert give_data(halves, tmp_path) == give_data((X[:900], Y[:900], X[900:], Y[900:]), tmp_path)


def test_columns_that_cannot_be_told(ray_session: RaySession, tmp_path: Path) -> None:
    dataset = ray.data.from_items([{"pixels": 1, "y": 0}])
    with pytest.raises(DataError, match="column of examples cannot be told among pixels, y; name"):
        give_data(dataset, tmp_path)


PROGRAM = """
import logging, os, signal, sys, warnings
import numpy as np, torch
import raydistill
from builders import QUICK

def look():
    loggers = {name: logging.getLogger(name).level for name in ("", "ray", "ray.tune", "ray.train", "ray.data")}
    return loggers, list(warnings.filters), dict(os.environ), signal.getsignal(15), torch.get_rng_state().tolist()

before = look()
run = raydistill.Run("digits", run_dir=sys.argv[1], **{**QUICK, "cluster": {"backend": "ray"}}).fit()
import ray
assert not ray.is_initialized()
assert look() == before
print(run.report["student"]["test_accuracy"])
"""


@pytest.mark.slow
def test_what_a_run_starts_it_ends(tmp_path: Path) -> None:
    here = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.7
