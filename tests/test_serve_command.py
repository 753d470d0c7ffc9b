"""raydistill serve before anything listens: settings, ports, and what it tells."""

import socket

import pytest

from raydistill.commands.cli import main
from raydistill.commands.serve import describe_server
from raydistill.deployment.answerer import Answerer
from raydistill.deployment.serve_settings import ServeSettings, check_settings, choose_port
from raydistill.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "70000"], "port: 70000 is not allowed; give 0 to 65535"),
        (["--replicas", "0"], "replicas: 0 is not allowed; give 1 or more"),
        (["--cpus", "0"], "cpus: 0 is not allowed; give more than 0"),
        (["--batch", "0"], "batch: 0 is not allowed; give 1 or more"),
        (["--wait-ms", "-1"], "wait_ms: -1 is not allowed; give 0 to 10000 milliseconds"),
        (["--max-mb", "0"], "max_mb: 0 is not allowed; give more than 0"),
        ([], "not a run folder"),
    ],
)
def test_mistakes_are_one_line_and_exit_with_2(capsys, tmp_path, arguments, told):
    assert main(["serve", str(tmp_path), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert told in printed.err


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port: {port} at '127.0.0.1' cannot be used .*; give another --port"):
            choose_port("127.0.0.1", port)
    assert choose_port("127.0.0.1", port) == port
    assert choose_port("127.0.0.1", 0) > 0


def test_a_host_of_nobody_is_told():
    with pytest.raises(ConfigError, match=r"host: .nowhere\.invalid. is no address"):
        choose_port("nowhere.invalid", 0)


def test_it_tells_how_to_ask_and_who_may():
    answerer = Answerer("student", lambda batch: batch, ("a", "b"), (3,), "float32", None)
    told = describe_server("http://127.0.0.1:80", ServeSettings("runs/x"), answerer)
    assert "-d '[[0,0,0]]'" in told
    assert "note" not in told
    assert "neither password" in describe_server("http://h:80", ServeSettings("runs/x", host="0.0.0.0"), answerer)


def test_nothing_but_loopback_is_listened_at_by_default():
    assert check_settings(ServeSettings("runs/x")).host == "127.0.0.1"
