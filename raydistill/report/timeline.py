"""What ran where and when: the stages of the driver, and the jobs of every machine, side by side in lanes.

Comes in: manifest.json and timings/. Goes out: a `Timeline`, in seconds, whose long pauses are cut out: a run may have
been gone on with days later, or have taken stages over from another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raydistill.storage.files import read_json
from raydistill.storage.run_folder import RunFolder

DRIVER = "driver"
JOB_STAGES = {
    "generalist": "generalist",
    "specialists": "ensemble",
    "seeds": "seeds",
    "search": "search",
    "student": "student",
}
"""Stages that leave timings, and whose colour their jobs have."""
LONGEST_PAUSE = 0.1  # of the time at work; a longer one in which nothing ran is cut
SHOWN_PAUSE = 0.02  # what is left of it, of the time at work


@dataclass(frozen=True)
class Bar:
    """A stage or a job. lane: where it ran; start, seconds: from the first one's start, without pauses."""

    lane: str
    name: str
    kind: str
    start: float
    seconds: float

    @property
    def end(self) -> float:
        """When it ended, seconds."""
        return self.start + self.seconds


@dataclass(frozen=True)
class Pause:
    """Where nothing ran for long. start: where it is in the picture, shown: seconds left of it there, of `seconds`."""

    start: float
    shown: float
    seconds: float


@dataclass(frozen=True)
class Timeline:
    """Lanes from top to bottom, bars, pauses, and the share of the lanes' time between first and last job at work."""

    lanes: tuple[str, ...]
    bars: tuple[Bar, ...]
    pauses: tuple[Pause, ...]
    span: float


def read_timeline(run: RunFolder, stages: Sequence[str]) -> Timeline:
    """The timeline of a run's finished stages, of these names."""
    finished = run.read_manifest()["stages"]
    bars = [
        Bar(DRIVER, name, "stage", finished[name]["finished"] - finished[name]["seconds"], finished[name]["seconds"])
        for name in stages
        if name in finished and name not in JOB_STAGES
    ]
    jobs = []
    for stage, kind in JOB_STAGES.items():
        if stage in stages and run.timing_path(stage).exists():
            jobs += [(job, kind) for job in read_json(run.timing_path(stage))]
    return build_timeline([*bars, *share_slots(jobs)])


def share_slots(jobs: Sequence[tuple[Mapping[str, Any], str]]) -> list[Bar]:
    """Jobs as bars in the slots of their machines: the first that is free, as processes come and go.

    jobs: what timings/ holds of each (job, worker as host:process, started, seconds), and its kind.
    """
    free: dict[str, list[float]] = {}
    bars = []
    for job, kind in sorted(jobs, key=lambda pair: float(pair[0]["started"])):
        host, began = str(job["worker"]).rpartition(":")[0] or "worker", float(job["started"])
        slots = free.setdefault(host, [])
        slot = next((index for index, end in enumerate(slots) if end <= began + 0.05), len(slots))
        slots[slot : slot + 1] = [began + job["seconds"]]
        bars.append(Bar(f"{host} · {slot + 1}", str(job["job"]), kind, began, float(job["seconds"])))
    return bars


def build_timeline(bars: Sequence[Bar]) -> Timeline:
    """Sort lanes, the driver's first, count from the first start, and cut long pauses out."""
    if not bars:
        return Timeline((), (), (), 0.0)
    first = min(bar.start for bar in bars)
    moved = sorted((replace(bar, start=bar.start - first) for bar in bars), key=lambda bar: bar.start)
    gaps = find_gaps(moved)
    busy = max(bar.end for bar in moved) - sum(end - start for start, end in gaps)
    long = [(start, end) for start, end in gaps if end - start > LONGEST_PAUSE * busy]
    pauses, cut = [], 0.0
    for start, end in long:
        pauses.append(Pause(start - cut, SHOWN_PAUSE * busy, end - start))
        cut += end - start - SHOWN_PAUSE * busy
    shown = [replace(bar, start=bar.start - _cut_before(bar.start, long, SHOWN_PAUSE * busy)) for bar in moved]
    lanes = sorted({bar.lane for bar in shown}, key=lambda lane: (lane != DRIVER, _lane_key(lane)))
    return Timeline(tuple(lanes), tuple(shown), tuple(pauses), max(bar.end for bar in shown))


def find_gaps(bars: Sequence[Bar]) -> list[tuple[float, float]]:
    """Stretches in which nothing ran. bars: by their start."""
    gaps, end = [], bars[0].end
    for bar in bars[1:]:
        if bar.start > end:
            gaps.append((end, bar.start))
        end = max(end, bar.end)
    return gaps


def measure_use(timeline: Timeline, kind: str) -> float | None:
    """Share of the slots' time that jobs of a kind took, from the first's start to the last's end; None without any."""
    jobs = [bar for bar in timeline.bars if bar.kind == kind and bar.lane != DRIVER]
    if not jobs:
        return None
    span = max(bar.end for bar in jobs) - min(bar.start for bar in jobs)
    return sum(bar.seconds for bar in jobs) / max(span * len({bar.lane for bar in jobs}), 1e-9)


def _cut_before(start: float, long: Sequence[tuple[float, float]], shown: float) -> float:
    return sum(gap_end - gap_start - shown for gap_start, gap_end in long if gap_end <= start)


def _lane_key(lane: str) -> tuple[str, int]:
    host, _, slot = lane.rpartition(" · ")
    return (host, int(slot)) if host else (lane, 0)
