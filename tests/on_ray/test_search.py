from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.exceptions import ActorDiedError, RayTaskError

from raydistill.execution.in_process import InProcess
from raydistill.execution.jobs import JobEvent, JobFailed, SearchSpace, Trial
from raydistill.on_ray.executor import RayExecutor
from raydistill.on_ray.search import describe_cause, make_trainable
from raydistill.on_ray.session import RaySession

from .jobs_for_tests import count_starts

SPACE = SearchSpace(temperature=(1.0, 20.0), label_weight=(0.0, 0.5))


@pytest.fixture
def executor(ray_session: RaySession, tmp_path: Path) -> RayExecutor:
    return RayExecutor(tmp_path / "scratch")


def search(
    executor: RayExecutor | InProcess, function: str, folder: Path, on_event: Any, trials: int = 8
) -> list[Trial]:
    return executor.search(
        f"on_ray.jobs_for_tests:{function}",
        {"folder": str(folder), "epochs": 4},
        SPACE,
        trials=trials,
        epochs=4,
        grace_epochs=1,
        reduction_factor=2,
        seed=5,
        on_event=on_event,
    )


def pairs(trials: list[Trial]) -> list[tuple[float, float]]:
    return [(trial.temperature, trial.label_weight) for trial in trials]


def test_search_finds_the_planted_best_and_stops_early(executor: RayExecutor, tmp_path: Path) -> None:
    events: list[JobEvent] = []
    lock = threading.RLock()  # as a display has: it cannot be pickled

    def on_event(event: JobEvent) -> None:
        with lock:
            events.append(event)

    trials = search(executor, "peak", tmp_path / "ray", on_event)
    here = search(InProcess(), "peak", tmp_path / "here", lambda event: None)
    assert pairs(trials) == pairs(here)  # the same seed, the same proposals, on Ray or not
    nearest = min(trials, key=lambda trial: abs(trial.temperature - 4) / 20 + abs(trial.label_weight - 0.3))
    assert max(trials, key=lambda trial: (len(trial.values), trial.values[-1])) == nearest
    assert [len(trial.values) < 4 for trial in trials] == [trial.stopped_early for trial in trials]
    assert 1 <= sum(trial.stopped_early for trial in trials) < 8
    assert count_starts({"folder": tmp_path / "ray"}) == 8
    states = {event.job: event.state for event in events}
    assert states == {f"trial {index:03d}": "done" for index in range(8)}
    check_experiment(tmp_path / "scratch" / "search", trials)


def check_experiment(folder: Path, trials: list[Trial]) -> None:
    """What Tune left is an experiment that Ray's own tools read, with every pass of every trial."""
    analysis = tune.ExperimentAnalysis(str(folder))
    frames = analysis.trial_dataframes.values()
    found = {
        (frame["config/temperature"][0], frame["config/label_weight"][0]): tuple(frame["value"]) for frame in frames
    }
    assert found == {(trial.temperature, trial.label_weight): trial.values for trial in trials}
    assert analysis.get_best_config("value", "max", scope="all")["temperature"] in {pair[0] for pair in found}
    assert tune.Tuner.can_restore(str(folder))
    results = tune.Tuner.restore(str(folder), trainable=make_trainable("", {}, 4)).get_results()
    assert len(results) == len(trials)
    assert not results.errors


def test_a_trial_whose_process_dies_is_run_again(executor: RayExecutor, tmp_path: Path) -> None:
    trials = search(executor, "peak_dying_once", tmp_path / "marks", lambda event: None, trials=3)
    assert pairs(trials) == pairs(search(InProcess(), "peak", tmp_path / "here", lambda event: None, trials=3))
    assert any(len(trial.values) == 4 for trial in trials)
    assert count_starts({"folder": tmp_path / "marks"}) == 4


def test_failing_trials_are_named(
    executor: RayExecutor, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydistill.on_ray.search.TRIAL_RETRIES", 0)  # each would cost seconds
    events: list[JobEvent] = []
    told = r"'trial 000' failed after 1 attempt: ValueError: no targets \(failed as well: trial 001\)"
    with pytest.raises(JobFailed, match=told) as caught:
        search(executor, "fail_trial", tmp_path / "marks", events.append, trials=2)
    assert "in fail_trial" in str(caught.value.__cause__)
    assert {event.job: event.state for event in events} == {"trial 000": "failed", "trial 001": "failed"}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ActorDiedError(), "its process died"),
        (RayTaskError("train", "a traceback", ValueError("no targets")), "ValueError: no targets"),
        (RuntimeError("no storage"), "RuntimeError: no storage"),
        (None, "no reason given"),
    ],
)
def test_causes(error: Exception | None, told: str) -> None:
    assert describe_cause(error) == told
