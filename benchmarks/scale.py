"""The pool at scale, over a simulated cluster: `python -m benchmarks.scale --seeds 5 --write`.

Runs the pool's own queue and loops (simulated.py) for 61 and 1000 specialists on 8, 64 and 512 slots, with and without
lost nodes, and prints makespan against its lower bound, what the driver and the queue take of a core, and calls a
second; and how much is lost at the end because the pool only roughly knows how long a specialist takes. Specialists are
drawn, with replacement, from those measured (scale_inputs.py): cost, passes and time of one come together.

The bound is max(sum / slots, longest); where nodes are lost, the longest, or the moment by which the slots that were up
could have done the sum, whichever is later. The makespan counts from the first worker's readiness: the pool's start is
in SPEED.md, part 4.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.page import describe_making
from benchmarks.provenance import HERE, spread
from benchmarks.scale_inputs import INPUTS
from benchmarks.simulated import Cluster, Course, Specialist, simulate
from raydistill.storage.files import read_json, write_json, write_text

COUNTS, SLOTS = (61, 1000), (8, 64, 512)
LONG = 100.0  # times the measured seconds: specialists of one or two minutes, up to four
HOUR = 3600.0
PAGE, RESULTS = HERE.parent / "docs" / "scale.md", HERE / "results" / "scale.json"
ANSWERS: dict[str, Literal["crew", "restart"]] = {"the pool": "crew", "Ray Train": "restart"}
ORDERS: dict[str, Callable[[Specialist], float]] = {
    "times known in advance": lambda one: one.seconds,
    "by examples a pass (the pool)": lambda one: one.cost,
    "in no order": lambda one: 0.0,
    "the shortest first": lambda one: -one.seconds,
}


@dataclass(frozen=True)
class Scene:
    """What is simulated. stretch: of the measured seconds; losses: no, or how the pool answers them."""

    count: int
    slots: int
    stretch: float
    losses: str = "none"

    @property
    def cluster(self) -> Cluster:
        """Nodes are lost once an hour each, and are back after three minutes."""
        if self.losses == "none":
            return Cluster(self.slots)
        return Cluster(self.slots, up=HOUR, answer=ANSWERS[self.losses])


def list_scenes() -> list[Scene]:
    """All of them."""
    kinds = [(1.0, "none"), *((LONG, losses) for losses in ANSWERS)]
    scenes = [Scene(count, slots, *kind) for kind in kinds for count in COUNTS for slots in SLOTS]
    return [*scenes[:6], Scene(1000, 64, LONG), *scenes[6:]]


def draw_specialists(profile: Sequence[dict[str, float]], count: int, stretch: float, seed: int) -> list[Specialist]:
    """So many, drawn from measured ones with replacement."""
    drawn = random.Random(seed).choices(profile, k=count)
    return [Specialist(one["cost"], int(one["epochs"]), stretch * one["seconds"] / one["epochs"]) for one in drawn]


def bound_makespan(specialists: Sequence[Specialist], slots_at: Sequence[tuple[float, int]]) -> float:
    """The earliest moment at which all could be done. slots_at: moments, and the slots that are up from then on."""
    left, ends = sum(one.seconds for one in specialists), [moment for moment, _ in slots_at[1:]]
    for (began, slots), end in zip(slots_at, [*ends, float("inf")], strict=True):
        if left <= slots * (end - began):
            break
        left -= slots * (end - began)
    return max(began + left / slots, max(one.seconds for one in specialists))


def measure_scene(
    scene: Scene, profile: Sequence[dict[str, float]], seed: int, calls: dict[str, float]
) -> dict[str, float]:
    """One course, in figures. calls: what a call through Ray costs."""
    specialists = draw_specialists(profile, scene.count, scene.stretch, seed)
    course = simulate(specialists, scene.cluster, seed)
    return {**describe_course(course, specialists), **_add_ray(course, calls)}


def describe_course(course: Course, specialists: Sequence[Specialist]) -> dict[str, float]:
    """Figures that hold for any machine, and the processor time on this one."""
    bound, own = bound_makespan(specialists, course.slots_at), sum(one.seconds for one in specialists)
    return {
        "makespan": course.makespan,
        "over_bound_percent": round(100 * (course.makespan / bound - 1), 6) + 0.0,  # no -0.0
        "trained_again_percent": round(100 * (course.trained / own - 1), 6) + 0.0,
        "losses": course.losses,
        "interruptions": course.interruptions,
        "failed": course.failed,
        "calls_a_second": course.calls.total() / course.makespan,
        "calls_in_busiest_second": max(course.calls_in_second.values()),
        "driver_ms_a_specialist": 1e3 * course.driver_cpu / len(specialists),
        "driver_percent_of_core": 100 * course.driver_cpu / course.makespan,
        "queue_ms_a_specialist": 1e3 * sum(course.queue_cpu.values()) / len(specialists),
        "queue_percent_of_core": 100 * sum(course.queue_cpu.values()) / course.makespan,
    }


def _add_ray(course: Course, calls: dict[str, float]) -> dict[str, float]:
    """The same shares with Ray's own time in the calls: of a poll for the driver, of all calls for the queue."""
    driver = course.driver_cpu + course.polls * calls["poll_caller_cpu"]
    queue = course.polls * calls["poll_queue_cpu"] + (course.calls.total() - course.polls) * calls["beat_queue_cpu"]
    return {
        "driver_with_ray_percent_of_core": 100 * driver / course.makespan,
        "queue_with_ray_percent_of_core": 100 * queue / course.makespan,
    }


def measure_orders(
    profile: Sequence[dict[str, float]], count: int, slots: int, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """By order of giving, how far the makespan is over the bound, in percent, by seed."""
    over: dict[str, list[float]] = {name: [] for name in ORDERS}
    for seed in seeds:
        specialists = draw_specialists(profile, count, 1.0, seed)
        for name, order in ORDERS.items():
            ordered = [replace(one, cost=order(one)) for one in specialists]
            course = simulate(ordered, Cluster(slots), seed)
            over[name].append(describe_course(course, ordered)["over_bound_percent"])
    return over


def sum_up(runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Figures by seed."""
    return {name: [run[name] for run in runs] for name in runs[0]}


def format_scenes(results: Sequence[dict[str, Any]]) -> list[str]:
    """A Markdown table: mean ± standard deviation over the seeds."""
    head = ("specialists", "slots", "nodes lost", "makespan", "over the bound", "trained again", "failed")
    head += ("driver, of a core", "driver, a specialist", "queue, of a core", "calls a second (busiest)")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for result in results:
        scene, runs = result["scene"], result["figures"]
        mean = {name: statistics.mean(values) for name, values in runs.items()}
        times = "" if scene["stretch"] == 1 else f", × {scene['stretch']:g}"
        lost = scene["losses"] if scene["losses"] == "none" else f"{mean['losses']:.0f}, {scene['losses']}"
        cells = (
            f"{scene['count']}{times}",
            f"{scene['slots']}",
            lost,
            f"{mean['makespan']:,.0f} s",
            f"{spread(runs['over_bound_percent'], 1)} %",
            f"{mean['trained_again_percent']:.1f} %",
            f"{mean['failed']:.0f}",
            f"{mean['driver_percent_of_core']:.2f} % ({mean['driver_with_ray_percent_of_core']:.2f} %)",
            f"{mean['driver_ms_a_specialist']:.2f} ms",
            f"{mean['queue_percent_of_core']:.2f} % ({mean['queue_with_ray_percent_of_core']:.1f} %)",
            f"{mean['calls_a_second']:.0f} ({mean['calls_in_busiest_second']:.0f})",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def format_orders(orders: dict[str, dict[str, list[float]]]) -> list[str]:
    """A Markdown table: a column a profile."""
    lines = ["| 1000 specialists on 64 slots, given | " + " | ".join(orders) + " |", "|---" * (len(orders) + 1) + "|"]
    for name in ORDERS:
        lines.append(f"| {name} | " + " | ".join(f"{spread(over[name], 2)} %" for over in orders.values()) + " |")
    return lines


def write_page(page: Path, text: str) -> None:
    """Put the text between the marks of the simulation."""
    old = page.read_text(encoding="utf-8")
    mark = "<!-- simulation -->"
    write_text(page, re.sub(f"{mark}.*{mark}", lambda _: f"{mark}\n{text}\n{mark}", old, flags=re.DOTALL))


def main() -> None:
    """Simulate, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N - 1")
    parser.add_argument("--write", action="store_true", help="write results/scale.json and the table of docs/scale.md")
    options = parser.parse_args()
    inputs, seeds = read_json(INPUTS), range(options.seeds)
    profiles, calls = inputs["times"]["figures"], inputs["calls"]["figures"]
    scenes = []
    for scene in list_scenes():
        runs = [measure_scene(scene, profiles["stopped early"], seed, calls) for seed in seeds]
        scenes.append({"scene": vars(scene), "figures": sum_up(runs)})
        print("\n".join(format_scenes(scenes[-1:])[-1:]), flush=True)
    orders = {name: measure_orders(profile, 1000, 64, seeds) for name, profile in profiles.items()}
    made = describe_making("benchmarks.scale")
    note = f"- `{made['command']}`; commit {made['commit']}; seeds 0 to {options.seeds - 1}; {made['machine']}, shared"
    text = "\n".join([*format_scenes(scenes), "", *format_orders(orders), "", note])
    print(text)
    if options.write:
        write_json(RESULTS, {**made, "seeds": list(seeds), "scenes": scenes, "orders": orders})
        write_page(PAGE, text)


if __name__ == "__main__":
    main()
