"""Completion in a real bash: the script is sourced, and its function asked as a key press would ask it."""

import shutil
import subprocess
import sys
import time

import pytest

from raydistill.commands.cli import COMMANDS, build_parser, main
from raydistill.commands.completion import SHELLS, list_choices
from raydistill.settings.config import Config

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_shtab_raydistill
printf '%s\\n' "${COMPREPLY[@]}"
"""
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "raydistill.bash"
    text = subprocess.run(
        [sys.executable, "-m", "raydistill", "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    path.write_text(text)
    return path


def ask(script, *words):
    command = ["bash", "-c", ASK, "bash", str(script), "raydistill", *words]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return answer.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["st"], ["status"]),
        (["run", "--teacher.k"], ["--teacher.kind"]),
        (["run", "--teacher.kind", ""], ["specialists", "seeds", "generalist"]),
        (["run", "--data", "digits", "--search.label-"], ["--search.label-weight"]),
        (["plan", "--specialists.prior-correction", ""], ["true", "false"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["export", "DIR", "--form"], ["--format"]),
        (["export", "DIR", "--format", "p"], ["pt2"]),
    ],
)
def test_bash_completes(script, words, expected):
    assert ask(script, *words) == expected


def test_bash_completes_every_command(script):
    assert ask(script, "") == list(COMMANDS)


def test_bash_completes_folders_and_files(script, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "settings.yaml").touch()
    assert ask(script, "status", f"{tmp_path}/r") == [f"{tmp_path}/run"]
    assert ask(script, "run", "--run-dir", f"{tmp_path}/") == [f"{tmp_path}/run"]
    assert ask(script, "run", "--config", f"{tmp_path}/s") == [f"{tmp_path}/settings.yaml"]


def test_it_asks_no_python_at_a_key_press(script):
    began = time.monotonic()
    ask(script, "run", "--")
    assert "python" not in script.read_text().lower()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_every_command(capsys, shell):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert "teacher.kind" in text


def test_every_command_has_a_parser():
    assert {build_parser(name).prog for name in COMMANDS} == {f"raydistill {name}" for name in COMMANDS}


def test_values_are_those_that_settings_take():
    choices = list_choices(Config)
    assert choices["grouping.method"] == ("spectral", "kmeans", "random")
    assert choices["student.precision"] == ("float32", "bfloat16")
    assert "search.trials" not in choices
