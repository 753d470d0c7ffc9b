"""The cluster: whether there is one at the address, its nodes and what they have.

Comes in: an address, or RAY_ADDRESS. Goes out: findings. Ray is asked by another process, which is ended when it does
not answer: `ray.init` cannot be interrupted.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from raydistill.doctor.finding import Finding, Status
from raydistill.settings.credentials import hide_credentials

ASK_SECONDS = 8.0
SHARED_MEMORY = Path("/dev/shm")
LITTLE_SHARED = 1.0  # GB
GIGABYTE = 1e9
TOKEN_NAMES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


class Question:
    """A process that joins the cluster and tells what its nodes have; started at once, asked for later."""

    def __init__(self, address: str, module: str = "raydistill.on_ray.nodes") -> None:
        self._address = address
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def answer(self, seconds: float = ASK_SECONDS) -> Finding:
        """The finding. Ends the process."""
        shown = hide_credentials(self._address)
        try:
            told, complaint = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            remedy = "look whether its head is up (ray status there), and whether a firewall lets this machine in"
            return Finding("cluster", "fail", f"{shown} did not answer in {seconds:g} s", remedy)
        if self._process.returncode:
            last = hide_credentials((complaint.strip().splitlines() or ["no reason given"])[-1])
            text, _, remedy = last.partition("; ")
            return Finding("cluster", "fail", text, remedy or "start it, or leave address and RAY_ADDRESS out")
        return describe_nodes(shown, json.loads(told.splitlines()[-1]))


def describe_nodes(address: str, nodes: list[dict[str, Any]]) -> Finding:
    """Nodes, and what they have together. nodes: what each has, in Ray's words."""
    cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    memory = sum(node.get("memory", 0.0) for node in nodes) / GIGABYTE
    kinds = sorted({name.partition(":")[2] for node in nodes for name in node if name.startswith("accelerator_type:")})
    text = f"{address}: {len(nodes)} node{'s' * (len(nodes) != 1)}, {cpus:g} CPUs, {gpus:g} GPUs, {memory:.0f} GB"
    text += f" ({', '.join(kinds)})" if kinds else ""
    if not cpus:
        remedy = "add nodes; where an autoscaler does, a run waits up to 10 minutes for one that holds its needs"
        return Finding("cluster", "warn", text, remedy)
    return Finding("cluster", "ok", text)


def ask_cluster(address: str | None) -> Question | None:
    """Begin to ask the cluster that a run would join; None where it would start a Ray of its own."""
    wanted = address or os.environ.get("RAY_ADDRESS")
    return Question(wanted) if wanted else None


def check_private() -> list[Finding]:
    """What a private Ray on this machine needs."""
    findings = [Finding("cluster", "ok", "no address given: a run starts a private Ray on this machine")]
    if SHARED_MEMORY.is_dir():
        room = shutil.disk_usage(SHARED_MEMORY).free / GIGABYTE
        status: Status = "warn" if room < LITTLE_SHARED else "ok"
        remedy = "docker run --shm-size=4g; without it, Ray keeps shared data in /tmp, which is slower"
        findings.append(
            Finding("shared memory", status, f"{room:.1f} GB free in /dev/shm", remedy if status == "warn" else "")
        )
    return findings


def check_token(address: str | None) -> Finding:
    """Whether Ray's token is set, never what it is."""
    there = [name for name in TOKEN_NAMES if os.environ.get(name)]
    if (Path.home() / ".ray" / "auth_token").exists():
        there.append("~/.ray/auth_token")
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    if mode == "token" and not there:
        remedy = f"set {TOKEN_NAMES[0]} or {TOKEN_NAMES[1]} to the cluster's token"
        return Finding("ray token", "fail", "RAY_AUTH_MODE is 'token', and there is none", remedy)
    text = f"set ({', '.join(there)})" if there else "not set"
    if not there and address is None and not os.environ.get("RAY_ADDRESS"):
        text += "; a private Ray gets one of its own"
    return Finding("ray token", "ok", f"{text}; RAY_AUTH_MODE {mode}")
