"""Fixtures for all tests. Ray starts only when a test asks for `ray_session`, once for all of them."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: small arrays lose by more threads
HOME = tempfile.TemporaryDirectory(prefix="raydistill-home-", ignore_cleanup_errors=True)
os.environ["HOME"] = HOME.name  # tests meet no file of the user's, such as Ray's token, and leave none there
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a script's job in the background, and its children, ignore it

if TYPE_CHECKING:
    from raydistill.on_ray.session import RaySession


@pytest.fixture(scope="session")
def ray_session() -> Iterator[RaySession]:
    """A private Ray of two CPUs, whose workers import `on_ray.jobs_for_tests` as pytest does."""
    from raydistill.on_ray.session import start_ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        patch.delenv("RAY_ADDRESS", raising=False)
        session = start_ray(cpus=2)
        yield session
        session.close()
