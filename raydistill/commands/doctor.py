"""raydistill doctor: whether this machine, its packages, the storage and the cluster are ready for a run.

Comes in: a run folder and an address, both optional. Goes out: a line for each finding with its remedy, or JSON; exit
code 1 where something would make a run fail. Nothing is trained, and no secret is printed.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict

from raydistill.doctor import cluster, folder, machine, packages
from raydistill.doctor.finding import Finding
from raydistill.settings.credentials import check_credentials
from raydistill.storage.job import settle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `raydistill doctor`."""
    parser.add_argument("--run-dir", type=settle, default=".", metavar="DIR", help="where runs would be; default: here")
    parser.add_argument("--address", help="of a Ray cluster; left out: RAY_ADDRESS, else none is asked")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run_doctor(given: argparse.Namespace) -> int:
    """Look at everything and print it; 1 where something fails. Raises ConfigError for credentials in a flag."""
    check_credentials({"run_dir": given.run_dir, "address": given.address})
    findings = examine(given.run_dir, given.address)
    if given.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False))
    else:
        print(format_findings(findings, given.run_dir))
    return int(any(finding.status == "fail" for finding in findings))


def examine(run_dir: str, address: str | None) -> list[Finding]:
    """All findings. The cluster is asked while everything else is looked at."""
    question = cluster.ask_cluster(address)
    findings = [
        packages.check_python(),
        *packages.check_required(),
        *packages.check_imports(),
        *packages.check_extras(),
    ]
    findings += [machine.check_processors(), machine.check_memory(), machine.check_threads()]
    if not any(finding.name == "torch" for finding in findings):  # missing, or of a wrong version
        findings.append(machine.check_accelerator())
    findings += folder.check_storage(run_dir)
    findings += [question.answer()] if question else cluster.check_private()
    return [*findings, cluster.check_token(address)]


def format_findings(findings: list[Finding], run_dir: str) -> str:
    """A line for each, its remedy below it, and what comes next."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:4}  {finding.name:{width}}  {finding.text}")
        lines += [f"{'':{width + 8}}-> {finding.remedy}"] if finding.remedy else []
    counts = Counter(finding.status for finding in findings)
    if counts["fail"]:
        return "\n".join([*lines, "", f"{counts['fail']} of these would make a run fail; mend them, and ask again"])
    where = "DIR" if run_dir == "." else run_dir
    warned = f"; {counts['warn']} worth a look" if counts["warn"] else ""
    return "\n".join([*lines, "", f"ready{warned}", f"next:   raydistill run --data DATA --run-dir {where} --dry-run"])
