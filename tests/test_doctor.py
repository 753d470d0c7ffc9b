"""Doctor: each finding on planted surroundings, that it is quick, changes nothing, and keeps secrets."""

import json
import os
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from raydistill.commands.cli import main
from raydistill.commands.doctor import examine, format_findings
from raydistill.doctor import cluster, folder, machine, packages
from raydistill.doctor.finding import Finding


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_a_machine_that_is_ready(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found = by_name(examine(str(tmp_path), None))
    assert not [finding for finding in found.values() if finding.status == "fail"]
    assert {"python", "packages", "extras", "processors", "memory", "disk", "storage", "cluster"} <= set(found)
    assert list(tmp_path.iterdir()) == []


def test_it_is_quick_and_has_json(tmp_path):
    environment = {**os.environ, "RAY_AUTH_TOKEN": "hunter2", "AWS_SECRET_ACCESS_KEY": "hunter3"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "raydistill", "doctor", "--run-dir", str(tmp_path / "new" / "run"), "--json"]
    began = os.times().children_user
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert os.times().children_user - began < 10
    assert ended.returncode == 0, ended.stdout
    assert "hunter" not in ended.stdout + ended.stderr
    token = next(finding for finding in json.loads(ended.stdout) if finding["name"] == "ray token")
    assert token["text"].startswith("set (RAY_AUTH_TOKEN)")
    assert list(tmp_path.iterdir()) == []


def test_credentials_in_a_flag_are_refused(capsys):
    assert main(["doctor", "--run-dir", "s3://key:hidden@bucket/x"]) == 2
    assert "hidden" not in capsys.readouterr().err


def test_wrong_and_missing_packages(monkeypatch):
    wanted = ["numpy>=2.0", "torch>=2.6", 's3fs>=2024.10; extra == "s3"', 'gcsfs>=2024.10; extra == "gcs"']
    there = {"numpy": "1.26.4", "s3fs": "2023.1"}

    def find_version(name):
        if name not in there:
            raise PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(packages, "requires", lambda name: wanted)
    required = by_name(packages.check_required(find_version))
    assert required["numpy"] == Finding(
        "numpy", "fail", "1.26.4, and raydistill asks for >=2.0", "pip install 'numpy>=2.0'"
    )
    assert required["torch"] == Finding("torch", "fail", "missing", "pip install 'torch>=2.6'")
    told = packages.check_extras(find_version)
    assert [finding.status for finding in told] == ["ok", "ok", "warn"]
    assert told[0].text == "installed: s3"
    assert told[1].remedy.startswith("pip install 'raydistill[gcs]'")
    assert told[2].name == "s3fs"


def test_torchvision_of_another_torch(monkeypatch):
    monkeypatch.setattr(packages, "version", lambda name: {"torchvision": "0.20", "timm": "1.0", "torch": "2.13"}[name])

    def load(name):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")

    broken, whole = packages.check_imports(load)
    assert (broken.name, broken.status) == ("torchvision", "warn")
    assert "nms does not exist" in broken.text
    assert "pip install" in broken.remedy
    assert whole.status == "ok"


@pytest.mark.parametrize(
    ("given", "load", "status"), [("2", 3.0, "warn"), ("1", 3.0, "ok"), ("2", 0.1, "ok"), ("64", 0.1, "warn")]
)
def test_threads_beside_a_busy_neighbour(monkeypatch, given, load, status):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    finding = machine.check_threads()
    assert finding.status == status
    assert bool(finding.remedy) == (status == "warn")


@pytest.mark.parametrize(("written", "limit"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("", None)])
def test_limits_of_a_container(tmp_path, written, limit):
    (tmp_path / "cpu.max").write_text(written)
    assert machine.read_cpu_limit(tmp_path) == limit


def test_memory_within_a_containers_limit(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4000000 kB\n")
    assert machine.read_memory(tmp_path / "meminfo", tmp_path)[0] == 4_096_000_000
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    assert machine.read_memory(tmp_path / "meminfo", tmp_path) == (2e9, 3e9)


@pytest.mark.parametrize(
    ("name", "told", "status"),
    [("replace", "rename", "fail"), ("hardlink_to", "no hard links", "warn"), ("read_bytes", "be read", "fail")],
)
def test_storage_that_cannot_do_all(tmp_path, monkeypatch, name, told, status):
    def refuse(*arguments, **options):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, name, refuse)
    finding = folder.check_operations(tmp_path)
    monkeypatch.undo()
    assert finding.status == status
    assert told in finding.text
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "file").touch()
    assert folder.check_storage(str(tmp_path / "file"))[1].status == "fail"


def test_little_room(tmp_path, monkeypatch):
    usage = folder.shutil.disk_usage(tmp_path)
    for free, status in ((10**10, "ok"), (10**9, "warn"), (10**8, "fail")):
        monkeypatch.setattr(folder.shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
        assert folder.check_room(tmp_path).status == status


def test_an_object_store(monkeypatch):
    assert folder.check_store("memory://bucket/run").status == "ok"
    finding = folder.check_store("nosuch://bucket/run")
    assert finding.status == "fail"
    assert finding.remedy
    monkeypatch.setattr(folder, "_try_store", lambda uri: time.sleep(1))
    monkeypatch.setattr(folder, "STORE_SECONDS", 0.05)
    assert "did not answer" in folder.check_store("memory://bucket/run").text


def test_no_cluster_at_the_address(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    finding = cluster.Question(address).answer(60)
    assert finding.status == "fail"
    assert address in finding.text
    assert "leave address and RAY_ADDRESS out" in finding.remedy


def test_a_cluster_that_does_not_answer(tmp_path, monkeypatch):
    (tmp_path / "silent.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = cluster.Question("far:6379", "silent").answer(0.2)
    assert (finding.status, "did not answer" in finding.text) == ("fail", True)


def test_nodes_in_words():
    nodes = [{"CPU": 4.0, "memory": 8e9}, {"CPU": 8.0, "GPU": 2.0, "memory": 16e9, "accelerator_type:A10G": 1.0}]
    assert cluster.describe_nodes("a:1", nodes).text == "a:1: 2 nodes, 12 CPUs, 2 GPUs, 24 GB (A10G)"
    assert cluster.describe_nodes("a:1", []).status == "warn"


def test_a_token_that_is_asked_for_and_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    assert cluster.check_token(None).status == "fail"


def test_failures_are_counted_and_the_remedies_told(tmp_path, monkeypatch, capsys):
    wrong = [Finding("storage", "fail", "it is broken", "mend it"), Finding("disk", "ok", "fine")]
    text = format_findings(wrong, ".")
    assert "-> mend it" in text
    assert "1 of these would make a run fail" in text
    monkeypatch.setattr("raydistill.commands.doctor.examine", lambda *arguments: wrong)
    assert main(["doctor"]) == 1
