"""CPU-seconds of this process and of all that it started: Ray's servers, helpers and workers."""

from __future__ import annotations

import threading

import psutil

SAMPLE_SECONDS = 0.2


class CpuMeter:
    """Adds up the CPU-seconds of this process and all its descendants, ended ones included."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, float], float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, daemon=True)
        self._thread.start()

    def read(self) -> float:
        """CPU-seconds since the processes began."""
        self._sample()
        return sum(self._seconds.values())

    def stop(self) -> None:
        """End the sampling."""
        self._stopped.set()
        self._thread.join()

    def _sample_until_stopped(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                times = process.cpu_times()
                self._seconds[process.pid, process.create_time()] = times.user + times.system
            except psutil.NoSuchProcess:
                continue
