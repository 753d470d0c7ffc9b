"""Secrets stay out of settings, manifests, reports and what is printed."""

import contextlib
import io
from pathlib import Path

import pytest
from builders import quick_config, run_quick

from raydistill.commands.cli import main
from raydistill.errors import ConfigError
from raydistill.settings.config import build_config
from raydistill.settings.credentials import hide_credentials

SECRET = "AKIAverysecret"
WITH_SECRET = [
    f"s3://{SECRET}:pw@bucket/run",
    f"s3://key:{SECRET}@bucket/run",
    f"https://{SECRET}@example.com/x.npz",
    f"npz:https://example.com/x.npz?X-Amz-Signature={SECRET}&x=1",
    f"https://example.com/x?a=1&token={SECRET}",
    f"https://x.blob.core.windows.net/c?sv=2&sig={SECRET}",
    f"ray://me:{SECRET}@10.0.0.1:10001",
]
WITHOUT = [
    "s3://bucket/run",
    "npz:/data/me@home/x.npz",
    "openml:mnist_784@1",
    "https://example.com/x?a=1&page=2#sig=1",
    "gs://bucket/a@b",
    "ray://10.0.0.1:10001",
    "npz:/me@home.npz",
]


@pytest.mark.parametrize("text", WITH_SECRET)
def test_a_secret_is_hidden_and_the_rest_stays(text):
    hidden = hide_credentials(f"cannot read {text} today")
    assert SECRET not in hidden
    assert hidden.startswith("cannot read ")
    assert hidden.endswith(" today")
    assert "***" in hidden


@pytest.mark.parametrize("text", WITHOUT)
def test_what_is_no_secret_stays(text):
    assert hide_credentials(text) == text


@pytest.mark.parametrize("text", WITH_SECRET)
@pytest.mark.parametrize("field", ["data", "run_dir", "cluster.address", "generalist.options.source"])
def test_settings_with_a_secret_are_refused(text, field):
    settings = {"data": "digits", "run_dir": "/tmp/x"}
    *sections, name = field.split(".")
    section = settings
    for part in sections:
        section = section.setdefault(part, {})
    section[name] = text
    with pytest.raises(ConfigError, match=f"{field}: .*holds credentials") as caught:
        build_config(settings)
    assert SECRET not in str(caught.value)


def test_a_path_has_lost_a_slash():
    with pytest.raises(ConfigError, match="holds credentials"):
        build_config({"data": "digits", "run_dir": Path(f"s3://key:{SECRET}@bucket/run")})


@pytest.mark.parametrize("name", ["hf_token", "token", "password", "db_password", "api_key", "aws_secret_access_key"])
def test_a_models_options_hold_no_secret(name):
    with pytest.raises(ConfigError, match=rf"generalist\.options\.{name}: '\*\*\*' holds credentials"):
        build_config({"data": "digits", "run_dir": "/tmp/x", "generalist": {"options": {name: SECRET}}})


def test_other_options_may_speak_of_tokens():
    options = {"tokens": 3, "pad_token": "<pad>", "token": 7, "key": "a"}
    assert build_config({"data": "digits", "run_dir": "/tmp/x", "generalist": {"options": options}})


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--data", "digits", "--run-dir", f"s3://key:{SECRET}@bucket/run"],
        ["run", "--data", f"npz:https://key:{SECRET}@host/x", "--run-dir", "/tmp/x"],
        ["run", "--data", "digits", "--run-dir", "RUN", "--start-from", f"s3://key:{SECRET}@bucket/run"],
        ["run", "--dta", f"s3://key:{SECRET}@bucket/run"],
        ["run", "--dta=s3://key:{SECRET}@bucket/run", "--run-dir", "/tmp/x"],
        ["report", f"s3://key:{SECRET}@bucket/run"],
    ],
)
def test_the_command_line_repeats_no_secret(arguments, tmp_path, capsys):
    """--start-from would be written into the manifest."""
    assert main([str(tmp_path / "run") if word == "RUN" else word for word in arguments]) == 2
    told = capsys.readouterr()
    assert SECRET not in told.out + told.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET in path.read_text()]


def test_a_run_writes_nothing_of_its_environment(tmp_path, monkeypatch):
    """Manifest, report, timings, weights, arrays: no byte of what a machine's environment holds."""
    for name in ("AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, f"{SECRET}-{name}")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        run = run_quick(quick_config(tmp_path / "run"))
        assert main(["status", str(run.path)]) == 0
        assert main(["report", str(run.path)]) == 0
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert run.stage_folder("report") / "report.html" in files
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in printed.getvalue()
