"""Where relative run folders of Ray jobs are."""

from pathlib import Path

import pytest
from builders import quick_config, run_quick

from raydistill.commands.cli import main
from raydistill.commands.flags import read_settings
from raydistill.storage.job import MARK, settle

HOME = Path.home()


@pytest.mark.parametrize(
    ("home", "folder", "settled"),
    [
        (None, "runs/x", HOME / "raydistill/runs/x"),
        ("", "runs/x", HOME / "raydistill/runs/x"),
        ("/shared", "runs/x", Path("/shared/runs/x")),
        ("~/shared", "x", HOME / "shared/x"),
        ("/shared", "/data/x", Path("/data/x")),
        ("/shared", "~/x", HOME / "x"),
        ("s3://bucket/runs/", "a/x", "s3://bucket/runs/a/x"),
        ("s3://bucket/runs", "/data/x", Path("/data/x")),
        ("/shared", "gs://bucket/x", "gs://bucket/x"),
    ],
)
def test_in_a_job(monkeypatch, home, folder, settled):
    monkeypatch.setenv(MARK, "{}")
    monkeypatch.delenv("RAYDISTILL_HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("RAYDISTILL_HOME", home)
    assert settle(folder) == str(settled)


def test_elsewhere_folders_are_what_they_are(monkeypatch, capsys):
    monkeypatch.delenv(MARK, raising=False)
    monkeypatch.setenv("RAYDISTILL_HOME", "/shared")
    assert settle("runs/x") == "runs/x"
    config, given = read_settings("run", ["--data", "digits", "--run-dir", "runs/x", "--start-from", "runs/y"])
    assert (config.run_dir, given.start_from) == ("runs/x", "runs/y")
    assert capsys.readouterr().out == ""


def test_commands_of_a_job(monkeypatch, capsys, tmp_path):
    run_quick(quick_config(tmp_path / "runs" / "x"), until="splits")
    monkeypatch.setenv(MARK, "{}")
    monkeypatch.setenv("RAYDISTILL_HOME", str(tmp_path))
    config, given = read_settings("run", ["--data", "digits", "--run-dir", "runs/x", "--start-from", "runs/y"])
    assert (config.run_dir, given.start_from) == (str(tmp_path / "runs/x"), str(tmp_path / "runs/y"))
    assert capsys.readouterr().out == f"run folder: {tmp_path / 'runs/x'}\n"
    assert main(["status", "runs/x"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'runs/x'}: digits, not running\n")
