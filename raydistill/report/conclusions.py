"""What to conclude from each figure and table of the report, in a sentence, made of the numbers alone.

Comes in: the numbers of report.json. Goes out: sentences by the name of their figure; a figure that the run has no
numbers for has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

from raydistill.report.economy import (
    conclude_curves,
    conclude_search,
    conclude_serving,
    conclude_time,
    format_short,
)
from raydistill.report.kept import conclude_kept
from raydistill.report.names import NAMES, Numbers, begin_sentence, figures_of
from raydistill.report.shares import describe_shares, judged_accuracy, name_measure, say_weighted
from raydistill.report.verdict import SIGNIFICANT, format_p, name_classes
from raydistill.stages.roles import STUDENT
from raydistill.words import join_words

COVERED_SHARE = 0.005  # of the examples, from which a row of the coverage table counts for its sentence
FEW_ERRORS = 20  # below it, errors are told in numbers, not in per cent
EVEN = 0.005  # mean confidence this near to the accuracy is neither over- nor under-confident


def conclude(numbers: Numbers) -> dict[str, str]:
    """Sentences by figure: accuracies, comparisons, confusions, changes, coverage, groups, costs and so on."""
    found = {name: say(numbers) for name, say in SENTENCES.items()}
    return {name: sentence for name, sentence in found.items() if sentence is not None}


def conclude_accuracies(numbers: Numbers) -> str:
    """Models by how often they are right."""
    plain = {name: figures_of(numbers, name)["test_accuracy"] for name in numbers["models"]}
    judged = {name: judged_accuracy(figures_of(numbers, name)) for name in numbers["models"]}
    return f"Most often right is {_rank(plain)}." + say_weighted(
        numbers, f" By {name_measure(numbers)} the first is {_rank(judged)}."
    )


def conclude_comparisons(numbers: Numbers) -> str:
    """How many differences are beyond chance, and which are not."""
    tests = numbers["significance"]
    even = [name for name, test in tests.items() if test["p_value"] >= SIGNIFICANT]
    pairs = [" and ".join(NAMES[model] for model in name.split("_vs_")) for name in even]
    if not even:
        return f"All {len(tests)} differences are beyond chance (p < {SIGNIFICANT})."
    beyond = len(tests) - len(even)
    if beyond == 0:
        return f"None of the {len(tests)} differences is beyond chance (p < {SIGNIFICANT})."
    return (
        f"{beyond} of {len(tests)} differences {'is' if beyond == 1 else 'are'} beyond chance (p < {SIGNIFICANT});"
        f" no difference is shown between {'; between '.join(pairs)}."
    )


def conclude_confusions(numbers: Numbers) -> str | None:
    """Where the generalist's errors lie, and what became of them."""
    errors = numbers["errors"]
    before, teacher = errors["generalist"], numbers["teacher"]
    after = [name for name in dict.fromkeys((teacher, STUDENT)) if name != "generalist"]
    total = before["inside"] + before["outside"]
    if total == 0:
        return "The generalist makes no errors on the test examples."
    if "groups" not in numbers:
        told = [f"{NAMES[name]} makes {_change(total, sum(errors[name].values()))}" for name in after]
        return f"The generalist makes {total:,} errors; {'; '.join(told)}."
    told = [
        f"{NAMES[name]} makes {_change(before['inside'], errors[name]['inside'])} there and"
        f" {_change(before['outside'], errors[name]['outside'])} elsewhere"
        for name in after
    ]
    inside = before["inside"] / total
    share = "Nearly all" if 0.995 <= inside < 1 else f"{inside:.0%}"
    return f"{share} of the generalist's {total:,} errors lie inside a group; {'; '.join(told)}."


def conclude_changes(numbers: Numbers) -> str | None:
    """How many examples the teacher mends for each that it breaks."""
    model = STUDENT if numbers["teacher"] == "generalist" else numbers["teacher"]
    test = numbers["significance"][f"{model}_vs_generalist"]
    fixed, broken = test["first_only_right"], test["second_only_right"]
    ratio = f", {fixed / broken:.1f} for one" if broken else ""
    return (
        f"{begin_sentence(NAMES[model])} mends {fixed:,} test examples that the generalist has wrong and"
        f" breaks {broken:,} that it has right{ratio} ({format_p(test)}{say_weighted(numbers, ', weighted')})."
    )


def conclude_coverage(numbers: Numbers) -> str | None:
    """Whether classes that more specialists cover gain more."""
    rows = [row for row in numbers.get("coverage", []) if row["relative_gain"] is not None]
    total = sum(row["examples"] for row in rows)
    rows = [row for row in rows if row["examples"] >= COVERED_SHARE * total]
    if len(rows) < 2:
        return "All test examples are covered by as many specialists." if rows else None
    gains = [row["relative_gain"] for row in rows]
    if all(later > earlier for earlier, later in pairwise(gains)):
        lead = "The more specialists cover a class, the more it gains"
    elif gains[-1] > gains[0]:
        lead = "Classes that many specialists cover gain more than those of few, if not step by step"
    else:
        lead = "More specialists for a class do not mean more gain here"
    told = [f"{row['relative_gain']:+.1%} with {row['specialists']}" for row in (rows[0], rows[-1])]
    return f"{lead}: {', '.join(told)}."


def conclude_groups(numbers: Numbers) -> str | None:
    """In how many groups the ensemble is better, and where it gains most."""
    groups = [group for group in numbers.get("groups", []) if group["test_examples"]]
    if not groups:
        return None
    gains = [group["ensemble_accuracy"] - group["generalist_accuracy"] for group in groups]
    best = max(range(len(groups)), key=gains.__getitem__)
    lead = f"The ensemble is better than the generalist in {sum(gain > 0 for gain in gains)} of {len(groups)} groups"
    if gains[best] <= 0:
        return f"{lead}."
    group = groups[best]
    return (
        f"{lead}, most in group {numbers['groups'].index(group)}: {group['generalist_accuracy']:.1%} to"
        f" {group['ensemble_accuracy']:.1%}."
    )


def conclude_costs(numbers: Numbers) -> str | None:
    """Which specialists were worth their training."""
    known = [(index, group) for index, group in enumerate(numbers.get("groups", [])) if group["seconds"] is not None]
    if not known:
        return None
    net = {index: group["fixed"] - group["broken"] for index, group in known}
    seconds = {index: group["seconds"] for index, group in known}
    total, idle = sum(seconds.values()), [index for index, value in net.items() if value <= 0]
    text = f"{len(known) - len(idle)} of {len(known)} specialists mended more than they broke"
    best = max(net, key=lambda index: net[index] / max(seconds[index], 1e-9))
    if net[best] > 0:
        text += f"; for its time, number {best} did most ({net[best]:+,} examples in {format_short(seconds[best])})"
    if idle:
        wasted = sum(seconds[index] for index in idle)
        text += (
            f"; {'numbers' if len(idle) > 1 else 'number'} {name_classes([str(index) for index in idle])} took"
            f" {format_short(wasted)} of {format_short(total)} and gained nothing"
        )
    return text + "."


def conclude_reliability(numbers: Numbers) -> str:
    """Who is over- or under-confident, and by how much."""
    told = []
    for name, reliability in numbers["reliability"].items():
        figures = figures_of(numbers, name)
        gap = reliability["confidence"] - figures["test_accuracy"]
        manner = "over-confident" if gap > 0 else "under-confident"
        manner = "about as confident as right" if abs(gap) < EVEN else f"{manner} by {100 * abs(gap):.1f} points"
        told.append(f"{NAMES[name]} is {manner} (calibration error {figures['test_calibration_error']:.1%})")
    return begin_sentence(f"{join_words(told)}.")


def conclude_surest(numbers: Numbers) -> str:
    """How good the surer half of the answers is."""
    told = []
    for name, reliability in numbers["reliability"].items():
        share, accuracy = min(reliability["surest"], key=lambda pair: abs(pair[0] - 0.5))
        told.append(f"{NAMES[name]} is right in {accuracy:.1%} of the {share:.0%} of which it is surest")
    return begin_sentence(f"{join_words(told)}.")


SENTENCES: dict[str, Callable[[Numbers], str | None]] = {
    "accuracies": conclude_accuracies,
    "comparisons": conclude_comparisons,
    "confusions": conclude_confusions,
    "changes": conclude_changes,
    "coverage": conclude_coverage,
    "groups": conclude_groups,
    "costs": conclude_costs,
    "kept": conclude_kept,
    "shares": describe_shares,
    "reliability": conclude_reliability,
    "surest": conclude_surest,
    "search": conclude_search,
    "curves": conclude_curves,
    "serving": conclude_serving,
    "time": conclude_time,
}


def _rank(accuracies: Mapping[str, float]) -> str:
    """Models and their accuracies, the best first."""
    ranked = sorted(accuracies, key=lambda name: -accuracies[name])
    told = [f"{NAMES[name]} ({accuracies[name]:.2%})" for name in ranked]
    return f"{told[0]}, then {join_words(told[1:])}"


def _change(before: int, after: int) -> str:
    """A number of errors against one before, such as '8% fewer', or '7 for 5' where there were few."""
    if before == after:
        return "as many"
    if before < FEW_ERRORS:
        return f"{after:,} for {before:,}"
    return f"{abs(after - before) / before:.1%} {'fewer' if after < before else 'more'}"
