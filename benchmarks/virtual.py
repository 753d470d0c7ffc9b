"""A clock that only waiting moves: many processes of ordinary, blocking code, simulated one at a time.

Comes in: functions that wait by `World.sleep`. Goes out: the same course for the same functions, whatever the machine
does meanwhile. Each process is a thread, and exactly one runs: it hands over when it waits. (Threads, because the code
under test calls the wait from deep inside.)
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


def closed_gate() -> threading.Lock:
    """A lock that is held: acquire waits until another thread releases. Measured: a tenth of a Semaphore's time."""
    gate = threading.Lock()
    gate.acquire()
    return gate


class Killed(BaseException):
    """Raised in a process that is killed, where it waits. No code that catches Exception sees it."""


class Process:
    """A simulated process. cpu: seconds of processor time of its own code."""

    def __init__(self, world: World, body: Callable[[], None]) -> None:
        self.cpu, self.killed, self.ended, self.wake = 0.0, False, False, 0
        self.turn = closed_gate()
        self._world, self._body, self._waited = world, body, 0.0
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        self.turn.acquire()
        began = time.thread_time()
        try:
            if not self.killed:
                self._body()
        except Killed:
            pass
        except BaseException as error:
            self._world.errors.append(error)
        self.cpu += time.thread_time() - began - self._waited
        self.ended = True
        self._world.handed_back.release()

    def wait_for_turn(self) -> None:
        """Hand over until woken. Raises Killed."""
        began = time.thread_time()
        self._world.handed_back.release()
        self.turn.acquire()
        self._waited += time.thread_time() - began
        if self.killed:
            raise Killed


class World:
    """Time and processes. now: seconds. Serves as the `time` of what runs in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.handed_back = closed_gate()
        self.errors: list[BaseException] = []
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._current: Process | None = None
        self._processes: list[Process] = []

    def monotonic(self) -> float:
        """The time."""
        return self.now

    def sleep(self, seconds: float, /) -> None:
        """Wait, in a process."""
        process = self._current
        assert process is not None, "only a process waits"
        self._wake(process, self.now + seconds)
        process.wait_for_turn()

    def call_at(self, moment: float, function: Callable[[], None]) -> None:
        """Have a function called; it must not wait."""
        heapq.heappush(self._agenda, (moment, next(self._order), function))

    def start(self, body: Callable[[], None]) -> Process:
        """Begin a process now."""
        process = Process(self, body)
        self._processes.append(process)
        self._wake(process, self.now)
        return process

    def kill(self, process: Process) -> None:
        """End a process where it waits."""
        if not process.ended and not process.killed:
            process.killed = True
            self._wake(process, self.now)

    def run(self) -> None:
        """Until nothing is left to do. Raises the first error of a process."""
        while self._agenda and not self.errors:
            self.now, _, function = heapq.heappop(self._agenda)
            function()
        for process in self._processes:  # their threads must not outlive an error
            self.kill(process)
            self._resume(process, process.wake)
        if self.errors:
            raise self.errors[0]

    def _wake(self, process: Process, moment: float) -> None:
        process.wake += 1  # earlier appointments are void
        wake = process.wake
        self.call_at(moment, lambda: self._resume(process, wake))

    def _resume(self, process: Process, wake: int) -> None:
        if process.ended or process.wake != wake:
            return
        self._current = process
        process.turn.release()
        self.handed_back.acquire()
        self._current = None
