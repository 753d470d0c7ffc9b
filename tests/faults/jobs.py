"""Job functions that train nothing, but keep a checkpoint an epoch and a mark at the end, as specialists do."""

from __future__ import annotations

import errno
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import ray

from raydistill.execution.jobs import Beat, Job
from raydistill.storage.files import read_json, write_json

PARTS = 5  # beats of an epoch


def make_jobs(folder: Path, count: int, epochs: int, seconds: float, function: str = "climb") -> list[Job]:
    """So many jobs, the later ones a little longer in the queue's eyes."""
    return [
        Job(
            f"job {index:03d}",
            f"faults.jobs:{function}",
            {"folder": str(folder / f"{index:03d}"), "seed": index, "epochs": epochs, "seconds": seconds},
            cost=1.0 + index,
        )
        for index in range(count)
    ]


def expected_value(seed: int, epochs: int) -> int:
    """What a job ends with, whatever happened in between."""
    value = seed
    for epoch in range(1, epochs + 1):
        value = advance(value, epoch)
    return value


def advance(value: int, epoch: int) -> int:
    """An epoch's work."""
    return (value * 48271 + epoch) % (2**31 - 1)


def climb(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """Epochs that each build on the last; goes on from its checkpoint, and does nothing if it is finished."""
    folder = Path(arguments["folder"])
    note_start(folder)
    if (folder / "finished.json").exists():
        return dict(read_json(folder / "finished.json"))
    state = read_json(folder / "state.json") if (folder / "state.json").exists() else {"epoch": 0}
    value, epochs = state.get("value", arguments["seed"]), arguments["epochs"]
    for epoch in range(state["epoch"] + 1, epochs + 1):
        for part in range(PARTS):
            time.sleep(arguments["seconds"] / PARTS)
            beat({"epoch": epoch - 1, "epochs": epochs, "fraction": (epoch - 1 + part / PARTS) / epochs})
        value = advance(value, epoch)
        write_json(folder / "state.json", {"epoch": epoch, "value": value})
        with open(folder / "epochs.log", "a") as log:
            log.write(f"{epoch}\n")
        beat({"epoch": epoch, "epochs": epochs, "fraction": epoch / epochs})
    write_json(folder / "finished.json", {"value": value})
    return {"value": value}


def hang_once(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """As climb, but its first attempt falls silent."""
    if note_start(Path(arguments["folder"])) == 1:
        beat({"epoch": 0})
        time.sleep(3600)
    return climb(arguments, beat)


def fail(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    note_start(Path(arguments["folder"]))
    raise ValueError("no examples")


def diverge(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    note_start(Path(arguments["folder"]))
    raise FloatingPointError("loss is nan in epoch 1")


def climb_refused(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """As climb, on storage that refuses to write as long as a file 'refuse' lies beside the jobs' folders."""
    flush, sign = os.fsync, Path(arguments["folder"]).parent / "refuse"

    def refuse(number: int) -> None:
        if sign.exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        flush(number)

    os.fsync = refuse
    try:
        return climb(arguments, beat)
    finally:
        os.fsync = flush


def note_start(folder: Path) -> int:
    """Leave a mark that tells process and node; returns how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"pid": os.getpid(), "node": ray.get_runtime_context().get_node_id(), "time": time.time()})
    aside = folder / f".{uuid.uuid4().hex}"
    aside.write_text(text)
    aside.rename(folder / f"start-{aside.name[1:]}.json")
    return len(list_starts(folder))


def list_starts(folder: Path) -> list[dict[str, Any]]:
    """Every start of a job, the first one first."""
    starts = [json.loads(path.read_text()) for path in folder.glob("start-*.json")]
    return sorted(starts, key=lambda start: float(start["time"]))


def list_epochs(folder: Path) -> list[int]:
    """Every epoch that a job completed, as often as it did."""
    path = folder / "epochs.log"
    return [int(line) for line in path.read_text().split()] if path.exists() else []
