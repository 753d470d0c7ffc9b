"""What a tracker has been told already, so that a run that is started again tells nothing twice.

A file of lines, each added after its news has been handed over: a run that is killed loses none that was told. Where
settings have changed, what the tracker knows is another run's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raydistill.tracking.points import Point


class Ledger:
    """Lines of a file. known: what the tracker knows the run by, or None; last: the last pass told of each network."""

    def __init__(self, path: Path, identity: str) -> None:
        """identity: of the settings."""
        self._path, self._identity = path, identity
        self.known: str | None = None
        self._last: dict[str, int] = {}
        self._stages: dict[str, str] = {}
        for line in self._read():
            self._take(line)

    def begin(self, known: str) -> None:
        """The tracker has begun a run, or goes on with the known one."""
        if known == self.known:
            return
        self.known, self._last, self._stages = known, {}, {}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("")
        self._add({"settings": self._identity, "known": known})

    def forget(self) -> None:
        """All is to be told anew."""
        self.known, self._last, self._stages = None, {}, {}

    def choose(self, network: str, points: list[Point]) -> list[Point]:
        """Those that follow the last one told without a gap; a gap is filled when the stage has ended."""
        chosen, last = [], self._last.get(network, 0)
        for point in points:
            if point.epoch == last + 1:
                chosen.append(point)
                last += 1
        return chosen

    def note_points(self, network: str, points: list[Point]) -> None:
        """They have been told."""
        self._last[network] = points[-1].epoch
        self._add({"network": network, "epoch": points[-1].epoch})

    def stage_key(self, stage: str) -> str | None:
        """Key of a stage of which all has been told."""
        return self._stages.get(stage)

    def note_stage(self, stage: str, key: str) -> None:
        """All has been told of it."""
        self._stages[stage] = key
        self._add({"stage": stage, "key": key})

    def _add(self, line: dict[str, Any]) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _read(self) -> list[dict[str, Any]]:
        """Whole lines; none where they are of other settings."""
        try:
            lines = self._path.read_text(encoding="utf-8").split("\n")[:-1]
            found = [json.loads(line) for line in lines]
        except (OSError, ValueError):
            return []
        return found if found and found[0].get("settings") == self._identity else []

    def _take(self, line: dict[str, Any]) -> None:
        if "known" in line:
            self.known = line["known"]
        elif "network" in line:
            self._last[line["network"]] = int(line["epoch"])
        elif "stage" in line:
            self._stages[line["stage"]] = line["key"]
