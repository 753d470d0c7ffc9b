"""A specialist whose loss is no number, and one that fails every time: stop keeps the others, skip goes on without."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import list_results, quick_config, run_quick

import raydistill
from raydistill.data.arrays import open_examples
from raydistill.display import Silent
from raydistill.execution.jobs import JobFailed
from raydistill.method.ensemble import choose_active, solve_ensemble
from raydistill.method.specialists import specialist_log_probs
from raydistill.report import format_table, read_report
from raydistill.stages import specialists as stage
from raydistill.stages.groups import read_members
from raydistill.stages.teacher import load_ensemble_from
from raydistill.storage.files import read_json
from raydistill.storage.run_folder import RunFolder

STAGES_AFTER = ("ensemble", "targets", "search", "student", "report")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_quick(quick_config(tmp_path_factory.mktemp("undisturbed") / "run"))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has stopped before the specialists."""
    folder = tmp_path_factory.mktemp("before") / "run"
    run_quick(quick_config(folder), until="groups")
    return folder


@pytest.fixture
def run(before: Path, tmp_path: Path) -> RunFolder:
    shutil.copytree(before, tmp_path / "run")
    return RunFolder(tmp_path / "run")


class Recorder(Silent):
    """Which stages were skipped."""

    def __init__(self) -> None:
        self.stage, self.skipped = "", {}

    def begin_stage(self, name: str, number: int, total: int) -> None:
        self.stage = name

    def end_stage(self, seconds: float, skipped: bool) -> None:
        self.skipped[self.stage] = skipped


def let_fail(patch: pytest.MonkeyPatch, index: int, error: Exception) -> list[int]:
    """Specialist `index` raises; returns the list of those that were tried, which grows."""
    tried, train = [], stage.train_specialist

    def train_or_fail(arguments: dict[str, Any], beat: Any) -> dict[str, Any]:
        tried.append(arguments["index"])
        if arguments["index"] == index:
            raise error
        return train(arguments, beat)

    patch.setattr(stage, "train_specialist", train_or_fail)
    return tried


def config_of(run: RunFolder, on_failure: str) -> Any:
    return quick_config(run.path, specialists={"on_failure": on_failure})


def test_stop_keeps_the_others_and_names_it(
    run: RunFolder, finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        let_fail(patch, 1, ValueError("no examples"))
        with pytest.raises(
            JobFailed, match="'specialist 001' failed after 1 attempt: ValueError: no examples"
        ) as caught:
            run_quick(config_of(run, "stop"))
    assert any("--specialists.on_failure skip" in note for note in caught.value.__notes__)
    written = {index: (run.specialist_folder(index) / "training.json").stat().st_mtime_ns for index in (0, 2)}
    run_quick(config_of(run, "stop"))
    assert list_results(run) == list_results(finished)
    assert {index: (run.specialist_folder(index) / "training.json").stat().st_mtime_ns for index in (0, 2)} == written


def test_skip_goes_on_without_it_and_says_so(
    run: RunFolder, finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it stands: the same command does not try again; stop does, and then all is as if nothing had happened."""
    with monkeypatch.context() as patch:
        let_fail(patch, 1, ValueError("no examples"))
        run_quick(config_of(run, "skip"))
        report = read_report(run)
        assert read_json(run.stage_folder("specialists") / "skipped.json") == [
            {"index": 1, "attempts": 1, "reason": "ValueError: no examples"}
        ]
        assert report["ensemble"]["specialists"] == 2
        assert "ensemble: generalist and 2 of 3 specialists" in format_table(report)
        assert report["verdict"]["sentences"][0].startswith("The ensemble is degraded: 1 of 3 specialists failed")
        assert "001 (" in report["verdict"]["sentences"][0]
        assert "The ensemble is degraded" in (run.stage_folder("report") / "report.html").read_text()
        check_ensemble(run, [0, 2])
        again, tried = Recorder(), let_fail(patch, 1, ValueError("again"))
        run_quick(config_of(run, "skip"), display=again)
        assert all(again.skipped.values())
        assert not tried
    display, tried = Recorder(), let_fail(monkeypatch, 99, ValueError())
    run_quick(config_of(run, "stop"), display=display)
    assert not any(display.skipped[name] for name in ("specialists", *STAGES_AFTER))
    assert tried == [0, 1, 2]  # 0 and 2 find themselves finished
    assert list_results(run) == list_results(finished)


def check_ensemble(run: RunFolder, present: list[int]) -> None:
    """Equation 5 over the present specialists alone, put together from its parts."""
    examples, config = open_examples(run), run.read_config()
    ensemble, batch = load_ensemble_from(run, config, examples), examples.x[:80]
    members = read_members(run)[present]
    generalist = torch.log_softmax(ensemble.generalist(batch), dim=1)
    active = choose_active(generalist, members)
    answers = [
        specialist_log_probs(network(batch[active[:, place]]), group)
        for place, (network, group) in enumerate(zip(ensemble.specialists, ensemble.groups, strict=True))
    ]
    expected = solve_ensemble(generalist.detach(), members, active, [answer.detach() for answer in answers])
    for said in (raydistill.load_ensemble(run.path)(batch), raydistill.load_teacher(run.path)(batch)):
        torch.testing.assert_close(said, expected.log_probs, rtol=1e-4, atol=1e-4)


def test_removing_the_record_tries_again(run: RunFolder, finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        let_fail(patch, 0, ValueError("no examples"))
        run_quick(config_of(run, "skip"), until="specialists")
    (run.stage_folder("specialists") / "skipped.json").unlink()
    run_quick(config_of(run, "skip"), until="specialists")
    assert list_results(run)["specialists"] == list_results(finished)["specialists"]


def test_none_left_is_a_failure(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: dict[str, Any], beat: Any) -> dict[str, Any]:
        raise ValueError("no examples")

    monkeypatch.setattr(stage, "train_specialist", fail)
    with pytest.raises(JobFailed, match=r"failed as well: specialist 001, specialist 002"):
        run_quick(config_of(run, "skip"))
    assert not (run.stage_folder("specialists") / "skipped.json").exists()


@pytest.mark.parametrize("on_failure", ["stop", "skip"])
def test_a_loss_that_is_no_number(run: RunFolder, monkeypatch: pytest.MonkeyPatch, on_failure: str) -> None:
    """The specialist of one group learns from NaN; its last checkpoint stays, and it is told what happened."""
    loss_of, spoiled = stage.enriched_loss, read_members(run)[2].nonzero().squeeze(1)

    def spoil(group: Any, *settings: Any) -> Any:
        loss = loss_of(group, *settings)
        if not torch.equal(group.members, spoiled):
            return loss

        def spoiled_loss(logits: Any, batch: Any) -> Any:
            values, gradient = loss(logits, batch)
            return (values * math.nan, gradient * math.nan) if torch.is_grad_enabled() else (values, gradient)

        return spoiled_loss

    monkeypatch.setattr(stage, "enriched_loss", spoil)
    told = r"FloatingPointError: loss is nan in epoch 1; lower learning_rate"
    if on_failure == "stop":
        with pytest.raises(JobFailed, match=f"'specialist 002' failed after 1 attempt: {told}"):
            run_quick(config_of(run, on_failure), until="ensemble")
        return
    run_quick(config_of(run, on_failure), until="ensemble")
    (skipped,) = read_json(run.stage_folder("specialists") / "skipped.json")
    assert (skipped["index"], skipped["attempts"]) == (2, 1)
    assert skipped["reason"].startswith("FloatingPointError: loss is nan in epoch 1")
    check_present = load_ensemble_from(run, run.read_config(), open_examples(run))
    assert len(check_present.specialists) == 2
