"""Which networks a run would train, and how many examples they would see, before anything is trained.

Comes in: a run folder with data and splits, settings. Goes out: a line for each kind of network. All figures are upper
bounds: patience and a search's halving end trainings early.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from raydistill.data.arrays import open_examples, read_split
from raydistill.settings.config import Config
from raydistill.stages.groups import count_groups
from raydistill.stages.networks import count_passes
from raydistill.stages.roles import STUDENT, list_students
from raydistill.stages.teacher import select_transfer_rows
from raydistill.stages.warm import count_warm_passes
from raydistill.storage.files import read_json, write_array
from raydistill.storage.run_folder import RunFolder


@dataclass(frozen=True)
class NetworkForecast:
    """What would be trained. passes: of each network, at most; examples: in one pass of all of them together."""

    what: str
    networks: int
    passes: int
    examples: int


def estimate_networks(draft: RunFolder, config: Config, running: Set[str], run: RunFolder) -> list[NetworkForecast]:
    """The networks of the stages that would run. draft: has data and splits; run: may have the groups already.

    The transfer set is chosen, and written into the draft.
    """
    examples, rows = open_examples(draft), len(read_split(draft, "fit"))
    found: list[NetworkForecast] = []
    if "generalist" in running:
        passes = count_warm_passes(draft, config, "generalist", count_passes(draft, config, "generalist"))
        found.append(NetworkForecast("generalist", 1, passes, rows))
    if "specialists" in running:
        count, pass_examples = _estimate_specialists(config, running, run, examples.classes, rows)
        found.append(NetworkForecast("specialists", count, count_passes(draft, config, "specialist"), pass_examples))
    if "seeds" in running:
        others, passes = config.teacher.seeds - 1, count_passes(draft, config, "generalist")
        found.append(NetworkForecast("other seeds", others, passes, others * rows))
    if running & {"search", "student"}:
        chosen = select_transfer_rows(draft, config, examples)
        write_array(draft.stage_folder("targets") / "rows.npy", chosen.numpy())
        found += _estimate_students(draft, config, running, len(chosen))
    return found


def _estimate_specialists(
    config: Config, running: Set[str], run: RunFolder, classes: int, rows: int
) -> tuple[int, int]:
    """How many there are, and examples in a pass of all; exact where the groups are found already."""
    if "groups" not in running:
        groups = read_json(run.stage_folder("groups") / "groups.json")["groups"]
        return len(groups), sum(group["examples_an_epoch"] for group in groups)
    count, grouping = count_groups(config, classes), config.grouping
    share = 1 + grouping.overlap if grouping.size is None else max(1.0, grouping.size * count / classes)
    return count, round(rows * share / config.specialists.group_share)


def _estimate_students(draft: RunFolder, config: Config, running: Set[str], rows: int) -> list[NetworkForecast]:
    found, name = [], f"student/{STUDENT}"
    if "search" in running and config.search.trials:
        trials, passes = config.search.trials, count_passes(draft, config, "trial")
        found.append(NetworkForecast("trials", trials, count_warm_passes(draft, config, name, passes), trials * rows))
    if "student" in running:
        count, passes = len(list_students(config)), count_passes(draft, config, "student")
        what = "student and controls" if count > 1 else "student"
        found.append(NetworkForecast(what, count, count_warm_passes(draft, config, name, passes), count * rows))
    return found
