"""A clock that only waiting moves: many processes of ordinary, blocking code, simulated one at a time.

Comes in: functions that wait by `World.sleep`. Goes out: the same course for the same functions, whatever the machine
does meanwhile. Each process is a thread, and exactly one runs: when it waits, it does what is due next, or hands over
to the process whose turn that is. (Threads, because the code under test calls the wait from deep inside.)
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


def closed_gate() -> threading.Lock:
    """A lock that is held: acquire waits until another thread releases."""
    gate = threading.Lock()
    gate.acquire()
    return gate


class Killed(BaseException):
    """Raised in a process that is killed, where it waits. No code that catches Exception sees it."""


class Process:
    """A simulated process. cpu: processor seconds of its own code, without waiting; wakes: appointments so far."""

    def __init__(self, world: World, body: Callable[[], None]) -> None:
        self.cpu, self.killed, self.ended, self.wakes = 0.0, False, False, 0
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
        self.cpu = time.thread_time() - began - self._waited
        self.ended = True
        self._world.hand_over(None)

    def wait(self) -> None:
        """Until it is this process's turn. Raises Killed."""
        began = time.thread_time()
        self._world.hand_over(self)
        self._waited += time.thread_time() - began
        if self.killed:
            raise Killed


class World:
    """Time and processes. now: seconds. Serves as the `time` of what runs in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.errors: list[BaseException] = []
        self._agenda: list[tuple[float, int, Callable[[], Process | None]]] = []
        self._order = itertools.count()
        self._current: Process | None = None
        self._processes: list[Process] = []
        self._over = closed_gate()

    def monotonic(self) -> float:
        """The time."""
        return self.now

    def sleep(self, seconds: float, /) -> None:
        """Wait, in a process."""
        process = self._current
        assert process is not None, "only a process waits"
        self._wake(process, self.now + seconds)
        process.wait()

    def call_at(self, moment: float, function: Callable[[], None]) -> None:
        """Have a function called; it must not wait."""
        self._note(moment, function)

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
        """Until nothing is left to do. Raises the first error of a process or a function."""
        self._run_agenda()
        if self.errors:
            self._agenda.clear()
            for process in self._processes:  # their threads end with the world
                self.kill(process)
            errors, self.errors = self.errors, []
            self._run_agenda()
            raise errors[0]

    def _run_agenda(self) -> None:
        self.hand_over(None)
        self._over.acquire()

    def hand_over(self, waiting: Process | None) -> None:
        """Do what is due until it is a process's turn. `waiting` returns when it is its turn; None at once."""
        due = self._find_due()
        if due is waiting and due is not None:
            return
        (self._over if due is None else due.turn).release()
        if waiting is not None:
            waiting.turn.acquire()

    def _find_due(self) -> Process | None:
        """Call functions that are due, up to the next process, whose turn it is; None: nothing is left."""
        while self._agenda and not self.errors:
            self.now, _, function = heapq.heappop(self._agenda)
            try:
                self._current = function()
            except BaseException as error:
                self.errors.append(error)
            else:
                if self._current is not None:
                    return self._current
        return None

    def _wake(self, process: Process, moment: float) -> None:
        process.wakes += 1  # earlier appointments are void
        wake = process.wakes
        self._note(moment, lambda: process if process.wakes == wake and not process.ended else None)

    def _note(self, moment: float, function: Callable[[], Process | None]) -> None:
        heapq.heappush(self._agenda, (moment, next(self._order), function))
