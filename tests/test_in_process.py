from __future__ import annotations

from typing import Any

import pytest

from raydistill.execution.in_process import InProcess
from raydistill.execution.jobs import Beat, Job, JobEvent, JobFailed, SearchSpace, Trial, resolve_function

SPACE = SearchSpace(temperature=(1.0, 20.0), label_weight=(0.0, 0.5))


def ignore(*_: Any) -> None:
    pass


def add(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    beat({"epoch": 1, "epochs": 1, "fraction": 1.0})
    return {"sum": arguments["a"] + arguments["b"]}


def fail(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    raise ValueError("no examples")


def peak(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """Best at temperature 4 and label weight 0.3."""
    height = 1 - abs(arguments["temperature"] - 4) / 20 - abs(arguments["label_weight"] - 0.3)
    for epoch in range(1, 5):
        beat({"fraction": 0.5})
        beat({"epoch": epoch, "epochs": 4, "value": height + 0.01 * epoch})
    return {}


def name_of(function: Any) -> str:
    return f"{__name__}:{function.__name__}"


def search(seed: int, trials: int = 16) -> list[Trial]:
    return InProcess().search(
        name_of(peak),
        {},
        SPACE,
        trials=trials,
        epochs=4,
        grace_epochs=1,
        reduction_factor=2,
        seed=seed,
        on_event=ignore,
    )


def test_map_keeps_the_order_and_counts() -> None:
    seen: list[tuple[int, int]] = []
    assert InProcess().map(str, [3, 1, 2], lambda done, total: seen.append((done, total))) == ["3", "1", "2"]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_jobs_in_order_with_events() -> None:
    events: list[JobEvent] = []
    jobs = [Job(f"job {index}", name_of(add), {"a": index, "b": 1}, cost=index) for index in range(3)]
    outcomes = InProcess().run_jobs(jobs, events.append)
    assert [outcome.result["sum"] for outcome in outcomes] == [1, 2, 3]
    assert all(outcome.attempts == 1 and outcome.seconds >= 0 for outcome in outcomes)
    last = [event for event in events if event.job == "job 2"]
    assert [event.state for event in last] == ["waiting", "running", "running", "done"]
    assert last[-1].progress["fraction"] == 1.0


def test_a_failure_is_named_after_the_others_ran() -> None:
    events: list[JobEvent] = []
    jobs = [
        Job("bad", name_of(fail), {}, 1),
        Job("good", name_of(add), {"a": 1, "b": 1}, 1),
        Job("ugly", name_of(fail), {}, 1),
    ]
    with pytest.raises(JobFailed, match=r"'bad' failed after 1 attempt: ValueError: no examples .*ugly") as caught:
        InProcess().run_jobs(jobs, events.append)
    assert isinstance(caught.value.__cause__, ValueError)
    assert {event.job: event.state for event in events} == {"bad": "failed", "good": "done", "ugly": "failed"}


def test_search_finds_the_planted_best_and_stops_early() -> None:
    trials = search(seed=0)
    best = max(trials, key=lambda trial: trial.values[-1])
    assert abs(best.temperature - 4) < 2
    assert abs(best.label_weight - 0.3) < 0.15
    stopped = [trial for trial in trials if trial.stopped_early]
    assert stopped
    assert all(len(trial.values) < 4 for trial in stopped)


def test_the_seed_decides_the_search() -> None:
    assert search(seed=3) == search(seed=3)
    assert search(seed=3) != search(seed=4)


def test_proposals_are_in_the_space_and_log_uniform() -> None:
    temperatures = [trial.temperature for seed in range(20) for trial in search(seed, trials=10)]
    assert all(1 <= temperature <= 20 for temperature in temperatures)
    assert sum(temperature < 20**0.5 for temperature in temperatures) / 200 == pytest.approx(0.5, abs=0.1)


def test_a_failing_trial_is_named() -> None:
    with pytest.raises(JobFailed, match="'trial 000' failed after 1 attempt: ValueError: no examples"):
        InProcess().search(
            name_of(fail), {}, SPACE, trials=2, epochs=2, grace_epochs=1, reduction_factor=2, seed=0, on_event=ignore
        )


def test_train_runs_here_with_one_worker_only() -> None:
    job = Job("all", name_of(add), {"a": 1, "b": 2}, 1)
    assert InProcess().train(job, 1, ignore).result == {"sum": 3}
    with pytest.raises(ValueError, match="workers: 2"):
        InProcess().train(job, 2, ignore)


@pytest.mark.parametrize("name", ["nothing", "raydistill.execution.jobs:absent", "absent.module:f", ":f"])
def test_unknown_functions_are_named(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be imported"):
        resolve_function(name)
