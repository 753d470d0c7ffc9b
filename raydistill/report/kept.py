"""What a run that grew from another kept of it, and what it trained anew: a sentence or three, and a row a specialist.

Comes in: the numbers of report.json. Goes out: text and rows; nothing of a run that did not grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raydistill.report.names import NAMES, Numbers, begin_sentence
from raydistill.report.table import CONTROLS
from raydistill.report.verdict import name_classes
from raydistill.stages.roles import STUDENT
from raydistill.words import join_words


def conclude_kept(numbers: Numbers) -> str | None:
    """What growing saved, and how much of data and groups is new."""
    if "grown" not in numbers:
        return None
    saved = "; ".join(filter(None, (_tell_specialists(numbers), _tell_warm(numbers))))
    return f"Grown from {numbers['grown']['from']}: {saved}. {_tell_examples(numbers)}. {_tell_changes(numbers)}."


def list_kept(numbers: Numbers) -> list[dict[str, Any]]:
    """A row a specialist, by number: its group's name, what became of it, the old one's number or None, and why.

    fate: kept, trained or failed; why: reasons for its training, or what a kept one has not seen.
    """
    if "grown" not in numbers:
        return []
    decisions = {one["index"]: one for fate in ("kept", "trained") for one in numbers["grown"][fate]}
    kept, failed = ({one["index"] for one in found} for found in (numbers["grown"]["kept"], numbers.get("skipped", [])))
    rows = []
    for index, group in enumerate(numbers.get("groups", [])):
        one = decisions.get(index, {"source": -1, "reasons": ["a new group"], "unseen": []})
        unseen = [f"has not seen {name_classes(one['unseen'])}"] if one["unseen"] else []
        rows.append(
            {
                "name": group["name"],
                "fate": "kept" if index in kept else "failed" if index in failed else "trained",
                "source": one["source"] if one["source"] >= 0 else None,
                "why": "; ".join([*one["reasons"], *unseen]),
            }
        )
    return rows


def _tell_specialists(numbers: Numbers) -> str:
    """How many specialists were kept, trained and lost; '' where there are none."""
    fates = [row["fate"] for row in list_kept(numbers)]
    if not fates:
        return ""
    kept, trained, failed = (fates.count(fate) for fate in ("kept", "trained", "failed"))
    told = f"{kept or 'none'} of {len(fates)} specialists {'was' if kept < 2 else 'were'} kept,"
    told += f" {trained or 'none'} {'was' if trained < 2 else 'were'} trained anew"
    return told + (f", {failed} failed" if failed else "")


def _tell_warm(numbers: Numbers) -> str:
    """Which networks began from the old run's weights, or why none did."""
    grown, prior = numbers["grown"], numbers["balance"]["prior"]
    if not grown["warm"]:
        other = grown["prior"] != prior
        why = f", because balance.prior was {grown['prior']} there and is {prior} here" if other else ""
        return f"no network began from the old weights{why}"
    warm = [name.removeprefix("student/") for name in grown["warm"]]
    named = [NAMES[name] for name in warm if name in ("generalist", STUDENT)]
    controls, seeds = sum(name in CONTROLS for name in warm), sum(name.startswith("seeds/") for name in warm)
    named += [f"{controls} control{'s' if controls > 1 else ''}"] if controls else []
    named += [f"{seeds} generalist{'s' if seeds > 1 else ''} of other seeds"] if seeds else []
    return f"{join_words(named)} began from the old weights, with {grown['passes']:.0%} of their passes"


def _tell_examples(numbers: Numbers) -> str:
    """How many examples were in the old run, and how many test examples it had learned from."""
    total, told = numbers["data"]["examples"], numbers["grown"]["examples"]
    text = f"Of {total:,} examples, {told['known']:,} were in that run and {max(0, total - told['known']):,} are new"
    return text + (f"; it had learned from {told['leaked']:,} of the test examples" if told["leaked"] else "")


def _tell_changes(numbers: Numbers) -> str:
    """Classes that came and went, groups that were dissolved."""
    grown = numbers["grown"]
    told = [_tell_classes(grown["new_classes"], "new"), _tell_classes(grown["gone_classes"], "gone")]
    if "groups" in numbers:
        count = len(grown["dissolved_groups"])
        told.append(f"{count or 'none'} of the old groups {'was' if count < 2 else 'were'} dissolved")
    return begin_sentence(join_words(told))


def _tell_classes(names: Sequence[str], how: str) -> str:
    """'class a is new', 'no class is gone'."""
    if not names:
        return f"no class is {how}"
    return (
        f"{'class' if len(names) == 1 else 'classes'} {name_classes(names)} {'is' if len(names) == 1 else 'are'} {how}"
    )
