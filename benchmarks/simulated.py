"""A cluster that is not there: the pool's own queue, workers' loop and driver's loop, over simulated trainings.

Real: JobQueue with its WorkQueue, worker.take_jobs with run_job and Reporter, pool.emit_events, the display's lines.
Simulated: the clock, trainings (they wait), nodes of 8 slots, and when Ray starts and ends workers. Comes in: a cluster
and specialists. Goes out: the moments of all ends, calls, and the processor time that the real code took.

A lost node is answered in one of two ways. crew, as the pool does (on_ray/crew.py): its own workers alone are lost,
the queue hears of it when Ray has found the node dead, and new ones start when it is back. restart, as Ray Train 2.60
does with an elastic worker group (controller.py, elastic.py): all workers end, and begin again on the nodes left; nodes
that came back are noticed RESIZE_SECONDS after a start, and if jobs wait for a worker, all begin again as well.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from benchmarks.virtual import Process, World
from raydistill.display import Lines
from raydistill.execution.jobs import Beat, Job
from raydistill.on_ray.executor import LEASE_SECONDS
from raydistill.on_ray.pool import emit_events
from raydistill.on_ray.queue import JobQueue
from raydistill.on_ray.worker import BEAT_SECONDS, take_jobs

SLOTS_A_NODE = 8
START_SECONDS = 10.0  # of workers after a loss; measured by `python -m benchmarks.pool`, and on 2 slots
DEAD_SECONDS = 15.0  # until Ray has missed five beats of a node, and takes it for dead
RESIZE_SECONDS = 60.0  # Ray Train's default


@dataclass(frozen=True)
class Specialist:
    """A training to come. cost: what the pool expects, in any unit; epochs: until early stopping ends it."""

    cost: float
    epochs: int
    seconds_an_epoch: float

    @property
    def seconds(self) -> float:
        """Of an undisturbed training."""
        return self.epochs * self.seconds_an_epoch


@dataclass(frozen=True)
class Cluster:
    """Where they run.

    up: mean seconds until a node is lost; down: seconds until it is back; lost: moments and nodes besides; answer: what
    a lost node does, see the module.
    """

    slots: int
    up: float | None = None
    down: float = 180.0
    answer: Literal["crew", "restart"] = "crew"
    lost: tuple[tuple[float, int], ...] = ()


@dataclass
class Course:
    """What happened, in virtual seconds since the first worker was ready; cpu: measured, by call and of the driver."""

    ends: dict[str, float] = field(default_factory=dict)
    trained: float = 0.0
    losses: int = 0
    interruptions: int = 0
    failed: int = 0
    polls: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    calls_in_second: Counter[int] = field(default_factory=Counter)
    queue_cpu: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    driver_cpu: float = 0.0
    slots_at: list[tuple[float, int]] = field(default_factory=list)

    @property
    def makespan(self) -> float:
        """Until the last specialist has ended."""
        return max(self.ends.values())


class Training:
    """A specialist's folder: what it holds outlives its workers."""

    def __init__(self, name: str, specialist: Specialist, world: World, course: Course) -> None:
        self.name, self.specialist, self.epoch, self.attempts = name, specialist, 0, 0
        self._world, self._course = world, course

    def run(self, beat: Beat) -> dict[str, Any]:
        """Train from the last epoch's checkpoint to the end, as training.train_model."""
        self.attempts += 1
        self._course.interruptions += self.attempts > 1
        epochs = self.specialist.epochs
        for past in range(1, self.epoch + 1):
            beat({"epoch": past, "epochs": epochs, "fraction": past / epochs})
        while self.epoch < epochs:
            self._train_epoch(beat)
            self.epoch += 1
            beat({"epoch": self.epoch, "epochs": epochs, "fraction": self.epoch / epochs})
        self._course.ends[self.name] = self._world.now
        return {}

    def _train_epoch(self, beat: Beat) -> None:
        """Wait, with a beat a second: the Reporter lets no more through."""
        whole = left = self.specialist.seconds_an_epoch
        while left > 0:
            step, began = min(BEAT_SECONDS, left), self._world.now
            try:
                self._world.sleep(step)
            finally:
                self._course.trained += self._world.now - began
            left -= step
            fraction = (self.epoch + 1 - left / whole) / self.specialist.epochs
            beat({"epoch": self.epoch, "epochs": self.specialist.epochs, "fraction": fraction})


def train(arguments: dict[str, Any], beat: Beat) -> dict[str, Any]:
    """Job: a simulated training."""
    return arguments["training"].run(beat)  # type: ignore[no-any-return]


class CountedQueue:
    """The queue, as workers and driver see it; counts calls and their processor time."""

    def __init__(self, queue: JobQueue, world: World, course: Course) -> None:
        self._queue, self._world, self._course = queue, world, course

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method, course = getattr(self._queue, name), self._course

        def call(*arguments: Any) -> Any:
            course.calls[name] += 1
            course.calls_in_second[int(self._world.now)] += 1
            began = time.thread_time()
            try:
                return method(*arguments)
            finally:
                course.queue_cpu[name] += time.thread_time() - began

        return call


class Ended:
    """The driver's event: the pool has ended."""

    def __init__(self, world: World) -> None:
        self.happened, self._world = False, world

    def wait(self, seconds: float) -> bool:
        """Wait so long, and tell."""
        if not self.happened:
            self._world.sleep(seconds)
        return self.happened


class Pool:
    """Nodes that come and go, and the workers on them."""

    def __init__(
        self, world: World, cluster: Cluster, jobs: int, queue: CountedQueue, course: Course, seed: int
    ) -> None:
        self._world, self._cluster, self._queue, self._course = world, cluster, queue, course
        self._jobs, self._most, self._rng = jobs, min(jobs, cluster.slots), random.Random(seed)
        self._nodes = dict.fromkeys(range(-(-cluster.slots // SLOTS_A_NODE)), True)
        self._workers: dict[int, Process] = {}  # by slot
        self._names: dict[int, str] = {}  # of workers, by slot
        self._count, self._considered, self.ended = 0, 0.0, Ended(world)

    def start(self) -> None:
        """Start all workers at once, and the nodes' fates."""
        self._note_slots()
        self._start_group(after=0.0)
        for moment, node in self._cluster.lost:
            self._world.call_at(moment, partial(self._lose, node))
        for node in self._nodes:
            self._doom(node)
        if self._cluster.answer == "restart":
            self._world.call_at(RESIZE_SECONDS, self._consider_growth)

    def _slots_up(self) -> list[int]:
        every = range(self._cluster.slots)
        return [slot for slot in every if self._nodes[slot // SLOTS_A_NODE]]

    def _note_slots(self) -> None:
        self._course.slots_at.append((self._world.now, len(self._slots_up())))

    def _start_group(self, after: float) -> None:
        """End whoever works, and start one worker a slot, ranks from 0."""
        for worker in self._workers.values():
            self._world.kill(worker)
        self._queue.dismiss(self._names_of(self._workers), False)
        self._workers = {slot: self._start_worker(slot, after) for slot in self._slots_up()[: self._most]}
        self._considered = self._world.now + after

    def _start_worker(self, slot: int, after: float) -> Process:
        self._count += 1
        name = self._names[slot] = f"worker {self._count}"

        def live() -> None:
            if after:
                self._world.sleep(after)
            take_jobs(self._queue, name, LEASE_SECONDS, self._world)
            self.ended.happened = True  # a worker returns when all is done

        return self._world.start(live)

    def _names_of(self, slots: Iterable[int]) -> list[str]:
        return [self._names[slot] for slot in slots]

    def _doom(self, node: int) -> None:
        if self._cluster.up is not None:
            self._world.call_at(
                self._world.now + self._rng.expovariate(1 / self._cluster.up), partial(self._lose, node)
            )

    def _lose(self, node: int) -> None:
        if self.ended.happened:
            return
        self._nodes[node] = False
        self._course.losses += 1
        self._note_slots()
        mine = [slot for slot in self._workers if slot // SLOTS_A_NODE == node]
        for slot in mine:
            self._world.kill(self._workers[slot])
        if self._cluster.answer == "crew":
            found_dead = partial(self._queue.dismiss, self._names_of(mine), False)
            self._world.call_at(self._world.now + DEAD_SECONDS, found_dead)
        elif mine:
            self._start_group(after=START_SECONDS)
        self._world.call_at(self._world.now + self._cluster.down, partial(self._return, node))

    def _return(self, node: int) -> None:
        if self.ended.happened:
            return
        self._nodes[node] = True
        self._note_slots()
        if self._cluster.answer == "restart":
            if not self._workers:
                self._start_group(after=START_SECONDS)
        else:
            for slot in self._workers:
                if slot // SLOTS_A_NODE == node:
                    self._workers[slot] = self._start_worker(slot, START_SECONDS)
        self._doom(node)

    def _consider_growth(self) -> None:
        if self.ended.happened:
            return
        if self._world.now >= self._considered + RESIZE_SECONDS:
            self._considered = self._world.now
            waiting = self._jobs - len(self._course.ends) - len(self._workers)
            if waiting > 0 and min(len(self._slots_up()), self._most) > len(self._workers):
                self._start_group(after=START_SECONDS)
        self._world.call_at(self._considered + RESIZE_SECONDS, self._consider_growth)


def simulate(specialists: Sequence[Specialist], cluster: Cluster, seed: int) -> Course:
    """Run the pool until every specialist has ended, or failed for good. seed: of the nodes' fates."""
    world, course = World(), Course()
    trainings = [Training(f"specialist {index:03d}", one, world, course) for index, one in enumerate(specialists)]
    jobs = [
        Job(training.name, f"{__name__}:train", {"training": training}, training.specialist.cost)
        for training in trainings
    ]
    jobs_queue = JobQueue(jobs, LEASE_SECONDS, world)
    queue = CountedQueue(jobs_queue, world, course)
    pool = Pool(world, cluster, len(jobs), queue, course, seed)
    display = Lines(lambda line: None, world.monotonic)
    display.begin_stage("specialists", 6, 11)
    driver = world.start(lambda: emit_events(pool.ended, queue, display.on_event))
    pool.start()
    world.run()
    course.polls, course.driver_cpu = course.calls["changes"], driver.cpu - course.queue_cpu["changes"]
    course.failed = len(jobs_queue.results()[1])
    return course
