"""The blocks of an ingest on Ray Data: each is read, decoded, resized and written by the node that has it.

Only marks travel back: the arrays go straight to the folder that all nodes share. Ray Data starts the tasks, as many at
once as the cluster has CPUs, starts those of a lost node again, and waits for an autoscaler.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import ray
import ray.data

from raydistill.data.ingest import Block, Mark, Work, write_blocks
from raydistill.errors import RaydistillError
from raydistill.on_ray.resources import count_slots
from raydistill.on_ray.session import start_ray

MOST_BLOCKS = 16  # of a task, and so what a lost node costs at most


class RayBlocks:
    """A `RunBlocks` on a cluster, joined or private. seconds: what starting Ray took, and then the blocks."""

    def __init__(self, address: str | None = None, verbose: bool = False, cpus: int | None = None) -> None:
        """cpus: of a private cluster; left out: those of the machine."""
        self._address, self._verbose, self._cpus = address, verbose, cpus
        self.seconds = (0.0, 0.0)

    def __call__(self, work: Work, blocks: Sequence[Block], on_mark: Callable[[Mark], None]) -> None:
        """Do all blocks. Raises what on_mark raises, ConfigError at no Ray, DataError and OSError of the storage."""
        began = time.monotonic()
        session = start_ray(self._address, self._verbose, self._cpus)
        started = time.monotonic()
        try:
            for mark in run_blocks(work, blocks, self._verbose):
                on_mark(mark)
        finally:
            self.seconds = (started - began, time.monotonic() - started)
            session.close()


def run_blocks(work: Work, blocks: Sequence[Block], verbose: bool = False) -> Iterator[Mark]:
    """Marks of the blocks, in the order in which they are finished. Ray must be initialised."""
    items = [
        {"blocks": json.dumps([asdict(block) for block in part])}
        for part in deal_blocks(blocks, count_slots({"CPU": 1.0}))
    ]

    def do_blocks(row: dict[str, Any]) -> list[dict[str, Any]]:
        part = [Block(**{**block, "names": tuple(block["names"])}) for block in json.loads(row["blocks"])]
        return [{"mark": json.dumps(asdict(mark))} for mark in write_blocks(work, part)]

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = verbose
    context.raise_original_map_exception = True
    with ray.data.DataContext.current(context):
        rows = ray.data.from_items(items, override_num_blocks=len(items)).flat_map(do_blocks).iter_rows()
        try:
            for row in rows:
                mark = json.loads(row["mark"])
                yield Mark(**{**mark, "corrupt": [tuple(entry) for entry in mark["corrupt"]]})
        except ray.exceptions.RayTaskError as error:
            raise find_cause(error) from error


def deal_blocks(blocks: Sequence[Block], slots: int) -> list[Sequence[Block]]:
    """Runs of neighbouring blocks, one a task; long ones first, short ones last, so that all slots end together.

    Each takes half of a slot's share of what is left (guided self-scheduling, Polychronopoulos and Kuck 1987). A task
    of Ray Data waits up to 0.2 s before it begins (measured), and a file that is read in a stream is read once a task.
    """
    parts, start = [], 0
    while start < len(blocks):
        size = min(max(1, (len(blocks) - start) // (2 * slots)), MOST_BLOCKS)
        parts.append(blocks[start : start + size])
        start += size
    return parts


def find_cause(error: BaseException) -> BaseException:
    """The error of ours that a task has raised, or else what Ray makes of it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RaydistillError) and not isinstance(seen, ray.exceptions.RayTaskError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return error
