"""What each end of the command line tells to do next, and how far a stage in work is."""

import shutil
import subprocess
import sys

import pytest
from builders import quick_config, run_quick

from raydistill.commands.cli import main
from raydistill.commands.status import describe_status
from raydistill.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_quick(quick_config(tmp_path_factory.mktemp("status") / "run", teacher={"seeds": 3}))


@pytest.fixture
def stopped(finished, tmp_path):
    """A function that gives a copy which stopped in a stage, with what that had done."""

    def stop(stage):
        run = RunFolder(shutil.copytree(finished.path, tmp_path / stage))
        manifest = run.read_manifest()
        later = list(manifest["stages"])[list(manifest["stages"]).index(stage) :]
        for name in later:
            del manifest["stages"][name]
            if name != stage:
                (run.path / "begun" / name).unlink()
        run._write_manifest(manifest)
        return run

    return stop


def line_of(text, stage):
    return next(line for line in text.splitlines() if line.split()[:1] == [stage])


def test_a_finished_run_tells_of_report_and_export(finished):
    text = describe_status(str(finished.path))
    assert f"raydistill export {finished.path}" in text
    assert str(finished.stage_folder("report") / "report.html") in text


def test_specialists_are_counted(stopped):
    run = stopped("specialists")
    for index, name in ((1, "training.json"), (2, "training.json")):
        (run.specialist_folder(index) / name).unlink()
    (run.specialist_folder(2) / "checkpoint.safetensors").touch()
    text = describe_status(str(run.path))
    assert line_of(text, "specialists").endswith("begun, 1 of 3 networks done, 1 more begun")
    assert line_of(text, "student").endswith("to do")
    assert "goes on from specialists" in text


@pytest.mark.parametrize(("stage", "told"), [("seeds", "2 of 2 networks"), ("student", "4 of 4 networks")])
def test_other_networks_are_counted(stopped, stage, told):
    assert told in line_of(describe_status(str(stopped(stage).path)), stage)


def test_the_generalists_passes_are_read_from_its_checkpoint(tmp_path):
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); import raydistill.stages.networks as networks;"
        "networks.write_tensors = lambda *a: os._exit(9);"
        "from builders import quick_config, run_quick; run_quick(quick_config(sys.argv[1]), until='generalist')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run"), "tests"]
    assert subprocess.run(command, check=False).returncode == 9  # after the last pass, before the weights
    text = describe_status(str(tmp_path / "run"))
    assert "begun, 4 passes done, the last" in line_of(text, "generalist")
    (tmp_path / "run" / "03_generalist" / "checkpoint.safetensors").write_bytes(b"cut")
    assert line_of(describe_status(str(tmp_path / "run")), "generalist").endswith("begun")


def test_a_run_in_use_is_waited_for(finished):
    lock = finished.acquire_lock()
    try:
        assert "wait for it" in describe_status(str(finished.path))
    finally:
        lock.release()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fooo"], "give one of ingest, run"),
        (["satus"], "did you mean 'status'"),
    ],
)
def test_an_unknown_command(capsys, arguments, told):
    assert main(arguments) == 2
    assert told in capsys.readouterr().err


def test_ends_tell_what_comes_next(capsys, tmp_path):
    flags = ["--data", "digits", "--run-dir", str(tmp_path / "run"), "--cluster.backend", "none"]
    flags += ["--generalist.epochs", "1", "--generalist.options", '{"hidden": [8]}']
    assert main(["plan", *flags]) == 0
    assert "next:   raydistill run with the same flags" in capsys.readouterr().out
    assert main(["run", *flags, "--until", "groups"]) == 0
    assert "next:   raydistill status" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "run")]) == 2
    assert f"raydistill status {tmp_path / 'run'}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])
    assert "raydistill doctor" in capsys.readouterr().out
