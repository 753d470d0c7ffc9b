"""Job functions of a second or less. They note each start and each finish in a folder, as real ones do in theirs."""

from __future__ import annotations

import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

from raydistill.execution.jobs import Beat


def add(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    note_start(arguments)
    for epoch in range(1, 4):
        time.sleep(arguments.get("seconds", 0.3) / 3)
        beat({"epoch": epoch, "epochs": 3, "fraction": epoch / 3})
    return {"sum": arguments["a"] + arguments["b"]}


def tick(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """Five minutes of beats."""
    note_start(arguments)
    for step in range(3000):
        time.sleep(0.1)
        beat({"fraction": step / 3000})
    return {}


def fail(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    note_start(arguments)
    beat({"fraction": 0.0})
    raise ValueError("no examples")


def die_once(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    if note_start(arguments) == 1:
        beat({"fraction": 0.0})
        os.kill(os.getpid(), signal.SIGKILL)
    return {"starts": count_starts(arguments)}


def hang_once(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    if note_start(arguments) == 1:
        time.sleep(3600)
    return {"starts": count_starts(arguments)}


def count_epochs(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """So many epochs, each noted in a file with its node and the time; goes on after the last one there."""
    import ray

    file = Path(arguments["file"])
    done = file.read_text().split("\n")[:-1] if file.exists() else []
    for epoch in range(len(done) + 1, arguments["epochs"] + 1):
        time.sleep(arguments["seconds"])
        with open(file, "a") as notes:
            notes.write(f"{ray.get_runtime_context().get_node_id()} {time.time()}\n")
        beat({"epoch": epoch, "epochs": arguments["epochs"], "fraction": epoch / arguments["epochs"]})
    return {"resumed_from": len(done)}


def note_start(arguments: dict[str, Any]) -> int:
    """Leave a mark; returns how many there are."""
    folder = Path(arguments["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / uuid.uuid4().hex).touch()
    return count_starts(arguments)


def count_starts(arguments: dict[str, Any]) -> int:
    return len(list(Path(arguments["folder"]).iterdir()))


def peak(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """A trial whose value is highest at temperature 4 and label weight 0.3; it gains with each epoch."""
    note_start(arguments)
    height = 1 - abs(arguments["temperature"] - 4) / 20 - abs(arguments["label_weight"] - 0.3)
    for epoch in range(1, arguments["epochs"] + 1):
        beat({"epoch": epoch - 1, "epochs": arguments["epochs"], "fraction": 0.5})  # within an epoch, no value
        time.sleep(arguments.get("seconds", 0.0))
        beat({"epoch": epoch, "epochs": arguments["epochs"], "value": height + 0.01 * epoch})
    return {"values": []}


def peak_dying_once(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """As peak, but the first trial's process dies after its first epoch."""

    def deadly(progress: dict[str, Any]) -> None:
        beat(progress)
        if progress.get("value") and count_starts(arguments) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    return peak(arguments, deadly)


def fail_trial(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    raise ValueError("no targets")


def add_ranks(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """Sum of rank + 1 over all workers, by a collective."""
    import torch
    import torch.distributed as dist

    total = torch.tensor([dist.get_rank() + 1.0])
    dist.all_reduce(total)
    beat({"epoch": 1, "epochs": 1, "fraction": 1.0})
    return {"sum": float(total), "world": dist.get_world_size()}


def fail_on_last_rank(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    import torch.distributed as dist

    if dist.get_rank() == dist.get_world_size() - 1:
        raise ValueError("rank at fault")
    dist.barrier()
    return {}


def lose_last_rank_once(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    import torch.distributed as dist

    if dist.get_rank() == dist.get_world_size() - 1 and note_start(arguments) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return add_ranks(arguments, beat)


def double(value: int) -> int:
    return 2 * value
