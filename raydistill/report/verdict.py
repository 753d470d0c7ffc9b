"""The report in plain words: did the teacher pay, did the student keep the gain, what should be shipped.

Comes in: the numbers of report.json. Goes out: sentences, each with the figures that it rests on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raydistill.report.shares import describe_measure, describe_shares, judged_accuracy, say_weighted
from raydistill.words import join_words, list_some

SIGNIFICANT = 0.01  # p below it counts as a difference
OVERFIT = 1.5  # held-out loss over training loss from which the generalist is said to overfit
SHOWN_CLASSES = 5  # by name, then 'and n more'
PAID = {"ensemble": "specialists_paid", "seeds": "seeds_paid", "generalist": "student_beats_controls"}
"""By teacher, the verdict that says whether the work paid."""
HOW_LEARNED = {
    "labels_only": "on labels only",
    "generalist_targets": "on the generalist's targets",
    "seeds_targets": "on the seeds' targets",
}


def judge_run(numbers: dict[str, Any]) -> dict[str, Any]:
    """Verdicts and the sentences that say them.

    numbers: teacher, its figures, those of generalist, student and controls, significance, balance, settings.
    """
    against = {name: outcome_of(numbers["significance"][f"student_vs_{name}"]) for name in numbers["controls"]}
    judge = judge_distillation if numbers["teacher"] == "generalist" else judge_ensemble
    verdicts, sentences, knows_more = judge(numbers)
    if (measure := describe_measure(numbers)) is not None:
        sentences.insert(1 if numbers.get("skipped") else 0, measure)
    if "repair" in numbers["student"]:
        sentences.append(describe_repair(numbers))
    if (shares := describe_shares(numbers)) is not None:
        sentences.append(shares)
    return {
        **verdicts,
        "student_beats_controls": bool(against) and all(outcome == "better" for outcome in against.values()),
        "sentences": [*sentences, advise(numbers["teacher"], knows_more, against)],
    }


def judge_ensemble(numbers: dict[str, Any]) -> tuple[dict[str, Any], list[str], bool]:
    """Where an ensemble teaches: verdicts, their sentences, and whether it knows more than its student."""
    teacher = numbers["teacher"]
    paid = outcome_of(numbers["significance"][f"{teacher}_vs_generalist"])
    kept = share_kept(numbers, numbers["generalist"]) if paid == "better" else None
    sentences = [describe_specialists(numbers, paid) if teacher == "ensemble" else describe_seeds(numbers, paid)]
    if numbers.get("skipped"):
        sentences.insert(0, describe_skipped(numbers))
    if "ensemble_vs_seeds" in numbers["significance"]:
        sentences.append(describe_rivals(numbers))
    sentences += [describe_student(numbers, kept), *([describe_controls(numbers)] if numbers["controls"] else [])]
    knows_more = outcome_of(numbers["significance"][f"student_vs_{teacher}"]) == "worse"
    return {PAID[teacher]: paid == "better", "student_kept": kept}, sentences, knows_more


def judge_distillation(numbers: dict[str, Any]) -> tuple[dict[str, Any], list[str], bool]:
    """Where the generalist teaches: verdicts, their sentences, and whether it knows more than its student."""
    kept, labels_only = None, numbers["controls"].get("labels_only")
    if labels_only and judged_accuracy(numbers["generalist"]) > judged_accuracy(labels_only):
        kept = share_kept(numbers, labels_only)
    knows_more = outcome_of(numbers["significance"]["student_vs_generalist"]) == "worse"
    return {"student_kept": kept}, [describe_distillation(numbers, kept)], knows_more


def outcome_of(comparison: dict[str, Any]) -> str:
    """'better', 'worse' or 'no different': the first model against the second."""
    if comparison["p_value"] >= SIGNIFICANT:
        return "no different"
    return "better" if comparison["difference"] > 0 else "worse"


def share_kept(numbers: dict[str, Any], base: dict[str, Any]) -> float:
    """(student - base) / (teacher - base), of judged_accuracy; 1 means the teacher's whole gain over the base."""
    student, teacher = judged_accuracy(numbers["student"]), judged_accuracy(numbers[numbers["teacher"]])
    return (student - judged_accuracy(base)) / (teacher - judged_accuracy(base))


def describe_specialists(numbers: dict[str, Any], paid: str) -> str:
    """Whether the specialists paid."""
    text = describe_gain(numbers, "The specialists", f"with its {numbers['ensemble']['specialists']} specialists", paid)
    return text if paid == "better" else text + _suspect_overfitting(numbers["generalist"])


def describe_skipped(numbers: dict[str, Any]) -> str:
    """Which specialists are missing from the ensemble, and why."""
    skipped, there = numbers["skipped"], numbers["ensemble"]["specialists"]
    parts = [
        f"{record['index']:03d} ({name_classes(record['classes'])}) after {record['attempts']}"
        f" attempt{'s' if record['attempts'] != 1 else ''}: {record['reason']}"
        for record in skipped
    ]
    return (
        f"The ensemble is degraded: {len(skipped)} of {there + len(skipped)} specialists failed and"
        f" {'is' if len(skipped) == 1 else 'are'} left out, so that its classes have fewer experts or none:"
        f" {'; '.join(parts)}. Run again with --specialists.on_failure stop to try again."
    )


def describe_seeds(numbers: dict[str, Any], paid: str) -> str:
    """Whether the ensemble of seeds paid."""
    return describe_gain(
        numbers, "The ensemble", f"with {numbers['seeds']['members']} generalists of different seeds", paid
    )


def describe_gain(numbers: dict[str, Any], who: str, how: str, paid: str) -> str:
    """Whether an ensemble paid, with the accuracies of generalist and ensemble."""
    generalist, teacher = numbers["generalist"], numbers[numbers["teacher"]]
    comparison = numbers["significance"][f"{numbers['teacher']}_vs_generalist"]
    figures = (
        f"{judged_accuracy(generalist):.2%} of the {say_weighted(numbers)}test examples right with the generalist"
        f" alone, {judged_accuracy(teacher):.2%} {how} ({format_p(comparison)})"
    )
    if paid == "better":
        fewer = comparison["difference"] / max(1 - judged_accuracy(generalist), 1e-12)
        return f"{who} paid: {figures}, {fewer:.0%} fewer errors."
    return f"{who} {'did harm' if paid == 'worse' else 'made no significant difference'}: {figures}."


def _suspect_overfitting(generalist: dict[str, Any]) -> str:
    train, held_out = generalist["train_loss"], generalist["valid_loss"]
    if held_out < OVERFIT * train:
        return ""
    return (
        f" The generalist overfits (loss {train:.2f} nats on its training examples, {held_out:.2f} on held-out ones);"
        " specialists help where it underfits."
    )


def describe_rivals(numbers: dict[str, Any]) -> str:
    """The specialists against generalists of different seeds."""
    seeds, comparison = numbers["seeds"], numbers["significance"]["ensemble_vs_seeds"]
    outcome = {"no different": "no different from", "better": "better than", "worse": "worse than"}
    return (
        f"With {seeds['members']} generalists of different seeds, {judged_accuracy(seeds):.2%} are right: generalist"
        f" and specialists are {outcome[outcome_of(comparison)]} those ({format_p(comparison)})."
    )


def describe_student(numbers: dict[str, Any], kept: float | None) -> str:
    """Whether the student kept the ensemble's gain."""
    student, teacher = numbers["student"], numbers[numbers["teacher"]]
    size = f"{student['parameters']:,} parameters for the ensemble's {teacher['parameters']:,}"
    accuracy = f"the student is right in {judged_accuracy(student):.2%}, with {size}"
    if kept is None:
        return f"There is no gain to keep: {accuracy}."
    return f"The student kept {format_share(kept)} gain: {accuracy}."


def describe_distillation(numbers: dict[str, Any], kept: float | None) -> str:
    """The student between its teacher, the generalist, and the same network on labels only."""
    student, teacher, labels_only = numbers["student"], numbers["generalist"], numbers["controls"].get("labels_only")
    text = (
        f"The student, {student['parameters']:,} parameters, is right in {judged_accuracy(student):.2%} of the"
        f" {say_weighted(numbers)}test examples; its teacher, {teacher['parameters']:,} parameters, in"
        f" {judged_accuracy(teacher):.2%}"
    )
    if labels_only is None:
        return f"{text}."
    text += (
        f"; the same network {name_control(numbers, 'labels_only')} in {judged_accuracy(labels_only):.2%}"
        f" ({format_p(numbers['significance']['student_vs_labels_only'])})."
    )
    if kept is None:
        return f"{text} The teacher has no lead over labels only."
    return f"{text} The student kept {format_share(kept)} lead that its teacher has over labels only."


def describe_controls(numbers: dict[str, Any]) -> str:
    """The student against the same network without its teacher's targets."""
    parts = []
    for name, figures in numbers["controls"].items():
        comparison = numbers["significance"][f"student_vs_{name}"]
        than = "from" if outcome_of(comparison) == "no different" else "than"
        parts.append(
            f"{outcome_of(comparison)} {than} {name_control(numbers, name)} ({judged_accuracy(figures):.2%},"
            f" {format_p(comparison)})"
        )
    return f"Against the same network with the same steps and seed, it is {join_words(parts)}."


def name_control(numbers: dict[str, Any], name: str) -> str:
    """How a control learned."""
    early = name == "labels_only" and numbers["settings"]["student"]["labels_patience"] is not None
    return HOW_LEARNED[name] + (" with early stopping" if early else "")


def describe_repair(numbers: dict[str, Any]) -> str:
    """Which classes' biases were fitted, and the student's accuracy before and after."""
    student, repair = numbers["student"], numbers["student"]["repair"]
    names = repair["classes"]
    classes, whose = ("class", "its bias was") if len(names) == 1 else ("classes", "their biases were")
    return (
        f"The transfer set has few or no examples of {classes} {name_classes(names)}; {whose}"
        f" fitted on the tune split, which took the student from"
        f" {judged_accuracy(repair['unrepaired']):.2%} of the {say_weighted(numbers)}test examples right to"
        f" {judged_accuracy(student):.2%}."
    )


def advise(teacher: str, knows_more: bool, against: dict[str, str]) -> str:
    """What to ship. knows_more: whether the teacher is shown to know more; against: outcomes against the controls."""
    if not against:
        return "No control was trained (student.controls), so nothing here says whether labels alone would do as well."
    better = {name for name, outcome in against.items() if outcome == "better"}
    if against.get("seeds_targets") == "worse":
        return "Ship the network that was trained on the seeds' targets: generalists of different seeds taught it more."
    if better >= against.keys() - {"seeds_targets"}:
        return "Ship the student."
    if knows_more:
        who = "teacher" if teacher == "generalist" else "ensemble"
        return f"Try a wider student, more passes or more trials: the {who} knows more than this student shows."
    if "labels_only" in better and "generalist_targets" in against:
        return (
            "Ship the network that was trained on the generalist's targets: it is simpler, and nothing here is"
            " significantly better."
        )
    return "Ship the network that was trained on labels only: it is simpler, and nothing here is significantly better."


def name_classes(names: Sequence[str]) -> str:
    """'a, b and c', or 'a, b, c, d, e and 7 more'."""
    return join_words(names) if len(names) <= SHOWN_CLASSES else list_some(names, SHOWN_CLASSES)


def format_share(kept: float) -> str:
    """A share of a gain, such as '50% of the'."""
    if kept >= 1:
        return "the whole"
    return f"{f'{kept:.0%}' if kept > 0 else 'none'} of the"


def format_p(comparison: dict[str, Any]) -> str:
    """A comparison's p, such as 'p = 0.03' or 'p < 0.0001'."""
    p = comparison["p_value"]
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
