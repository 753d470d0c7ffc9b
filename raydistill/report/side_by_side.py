"""Finished runs side by side: settings, figures, significance, cost.

Comes in: run folders with reports. Goes out: what `raydistill compare` prints, as plain numbers. The first run is what
the others are held against.

Models are compared pair by pair on the test examples that both runs have: those whose bytes and class are the same,
wherever they are in the data. Figures of the runs themselves hold for their own test examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from raydistill.data.row_hashes import hash_rows
from raydistill.errors import RunFolderError
from raydistill.report.metrics import compare_models
from raydistill.report.table import read_report
from raydistill.storage.files import Array, map_array, read_array, read_json
from raydistill.storage.run_folder import ORIGIN, STAGES, RunFolder

FIGURES = ("test_accuracy", "test_top5", "test_nll", "test_calibration_error", "parameters")


def compare_many(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Everything that is compared of two or more runs; the first is the reference.

    Raises RunFolderError for fewer than two runs, or one without a report.
    """
    if len(runs) < 2:
        raise RunFolderError(f"compare: {len(runs)} run folder given; give two or more")
    manifests = [run.read_manifest() for run in runs]
    reports = [read_report(run) for run in runs]
    return {
        "runs": [run.location for run in runs],
        "versions": [manifest["version"] for manifest in manifests],
        "settings": list_differences([manifest["settings"] for manifest in manifests]),
        "data": [{name: report["data"][name] for name in ("examples", "classes", "splits")} for report in reports],
        "models": tabulate_models(reports),
        "pairs": [pair_runs(runs[0], run, reports[0], other) for run, other in zip(runs[1:], reports[1:], strict=True)],
        "stages": tabulate_stages(manifests),
    }


def list_differences(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Settings that are not the same in all runs: dotted name, and the value in each; None where it is not set."""
    flat = [flatten_settings(values) for values in settings]
    names = dict.fromkeys(name for values in flat for name in values)
    table = {name: [values.get(name) for values in flat] for name in names}
    return {name: values for name, values in table.items() if any(value != values[0] for value in values[1:])}


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names; the options of a model stay together."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and name != "options":
            flat |= flatten_settings(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def tabulate_models(reports: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any] | None]]:
    """By model, its figures in each run; None where a run has no such model."""
    names = dict.fromkeys(name for report in reports for name in report["models"])
    return {name: [find_figures(report, name) for report in reports] for name in names}


def find_figures(report: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The figures of one model of a report, or None."""
    model = report.get(name) if name in report["models"] else None
    model = model or report["controls"].get(name)
    return None if model is None else {figure: model.get(figure) for figure in FIGURES}


def tabulate_stages(manifests: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Seconds of each stage in each run; None where a run has no such stage."""
    stages = [manifest["stages"] for manifest in manifests]
    wanted = [name for name in (ORIGIN, *STAGES) if any(name in record for record in stages)]
    return {name: [record[name]["seconds"] if name in record else None for record in stages] for name in wanted}


def pair_runs(
    first: RunFolder, second: RunFolder, report: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, Any]:
    """Test examples that two runs share, and the comparison of their models of the same name on these.

    same: whether all test examples of both are the same. A difference is the second run's accuracy less the first's.
    """
    places = match_tests(first, second)
    rows = len(places[0])
    pair: dict[str, Any] = {
        "runs": [first.location, second.location],
        "same": rows == report["data"]["splits"]["test"] == other["data"]["splits"]["test"],
        "shared": rows,
        "tests": [source["data"]["splits"]["test"] for source in (report, other)],
        "models": {},
    }
    for name in (name for name in report["models"] if name in other["models"] and rows):
        before, after = (
            read_correct(run, source["models"].index(name))[place]
            for run, source, place in zip((first, second), (report, other), places, strict=True)
        )
        pair["models"][name] = asdict(compare_models(torch.from_numpy(after), torch.from_numpy(before)))
    return pair


def read_correct(run: RunFolder, model: int) -> Array:
    """Which test examples a model gets right, boolean (N,)."""
    folder = run.stage_folder("report")
    return np.asarray(read_array(folder / "predicted.npy")[model] == read_array(folder / "labels.npy"))


def match_tests(first: RunFolder, second: RunFolder) -> tuple[Array, Array]:
    """Places of the shared test examples among those of each run, in the same order.

    Examples that are several times in a test split are matched as often as both have them.
    """
    if _test_identity(first) == _test_identity(second):
        everything = np.arange(len(read_array(first.stage_folder("report") / "labels.npy")))
        return everything, everything
    found: dict[tuple[int, str], list[int]] = {}
    for place, mark in enumerate(_mark_tests(first)):
        found.setdefault(mark, []).append(place)
    pairs = [(found[mark].pop(), place) for place, mark in enumerate(_mark_tests(second)) if found.get(mark)]
    ordered = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    return ordered[:, 0], ordered[:, 1]


def _test_identity(run: RunFolder) -> tuple[str, ...]:
    """Checksums that decide which examples the test split holds."""
    stages = run.read_manifest()["stages"]
    files = {stage: stages[stage]["files"] for stage in ("data", "splits")}
    return (*(files["data"][name] for name in ("x.npy", "y.npy", "classes.json")), files["splits"]["test.npy"])


def _mark_tests(run: RunFolder) -> list[tuple[int, str]]:
    """Fingerprint and class name of each test example."""
    data = run.stage_folder("data")
    rows, names = read_array(run.stage_folder("splits") / "test.npy"), read_json(data / "classes.json")
    labels = read_array(data / "y.npy")[rows]
    return list(
        zip(hash_rows(map_array(data / "x.npy"), rows).tolist(), (names[label] for label in labels), strict=True)
    )
