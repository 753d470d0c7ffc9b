"""What every stage is given: the run folder, the configuration, an executor, a display."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from raydistill.data.arrays import Examples, open_examples
from raydistill.display import Display
from raydistill.execution.jobs import Executor
from raydistill.settings.config import Config
from raydistill.storage.run_folder import RunFolder


class Context:
    """The surroundings of a stage. The executor starts when a stage first asks for it, a private Ray when jobs do."""

    def __init__(
        self, run: RunFolder, config: Config, display: Display, start_executor: Callable[[], Executor]
    ) -> None:
        self.run = run
        self.config = config
        self.display = display
        self.stage_log: list[dict[str, Any]] = []
        self._start_executor = start_executor
        self._executor: Executor | None = None

    @property
    def executor(self) -> Executor:
        """Where jobs run."""
        if self._executor is None:
            self._executor = self._start_executor()
        return self._executor

    @cached_property
    def examples(self) -> Examples:
        """The mapped examples; the data stage must be finished."""
        return open_examples(self.run)

    def close(self) -> None:
        """End the executor, if one was started."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline.

    inputs: stages whose files it reads, where there are such; settings: what of Config decides its results; stands:
    whether its finished files are all that the configuration asks for.
    """

    name: str
    inputs: tuple[str, ...]
    settings: Callable[[Config], Any]
    body: Callable[[Context], None]
    stands: Callable[[Context], bool] = lambda context: True
