"""The report in plain words: did the specialists pay, did the student keep the gain, what should be shipped.

Comes in: the numbers of report.json. Goes out: sentences, each with the figures that it rests on.
"""

from __future__ import annotations

from typing import Any

SIGNIFICANT = 0.01  # p below it counts as a difference
OVERFIT = 1.5  # held-out loss over training loss from which the generalist is said to overfit


def judge_run(numbers: dict[str, Any]) -> dict[str, Any]:
    """Verdicts and the sentences that say them. numbers: generalist, ensemble, student, controls, significance."""
    paid = outcome_of(numbers["significance"]["ensemble_vs_generalist"])
    kept = share_kept(numbers) if paid == "better" else None
    against = {name: outcome_of(numbers["significance"][f"student_vs_{name}"]) for name in numbers["controls"]}
    sentences = [describe_specialists(numbers, paid), describe_student(numbers, kept), describe_controls(numbers)]
    return {
        "specialists_paid": paid == "better",
        "student_kept": kept,
        "student_beats_controls": all(outcome == "better" for outcome in against.values()),
        "sentences": [*sentences, advise(numbers, paid, against)],
    }


def outcome_of(comparison: dict[str, Any]) -> str:
    """'better', 'worse' or 'no different': the first model against the second."""
    if comparison["p_value"] >= SIGNIFICANT:
        return "no different"
    return "better" if comparison["difference"] > 0 else "worse"


def share_kept(numbers: dict[str, Any]) -> float:
    """(student - generalist) / (ensemble - generalist), of test accuracies; 1 means the whole gain."""
    generalist, ensemble, student = (numbers[name]["test_accuracy"] for name in ("generalist", "ensemble", "student"))
    return float((student - generalist) / (ensemble - generalist))


def describe_specialists(numbers: dict[str, Any], paid: str) -> str:
    """Whether the specialists paid."""
    generalist, ensemble = numbers["generalist"], numbers["ensemble"]
    comparison = numbers["significance"]["ensemble_vs_generalist"]
    figures = (
        f"{generalist['test_accuracy']:.2%} of the test examples right with the generalist alone,"
        f" {ensemble['test_accuracy']:.2%} with its {ensemble['specialists']} specialists ({format_p(comparison)})"
    )
    if paid == "better":
        fewer = comparison["difference"] / max(1 - generalist["test_accuracy"], 1e-12)
        return f"The specialists paid: {figures}, {fewer:.0%} fewer errors."
    did = "did harm" if paid == "worse" else "made no significant difference"
    return f"The specialists {did}: {figures}.{_suspect_overfitting(generalist)}"


def _suspect_overfitting(generalist: dict[str, Any]) -> str:
    train, held_out = generalist["train_loss"], generalist["valid_loss"]
    if held_out < OVERFIT * train:
        return ""
    return (
        f" The generalist overfits (loss {train:.2f} nats on its training examples, {held_out:.2f} on held-out ones);"
        " specialists help where it underfits."
    )


def describe_student(numbers: dict[str, Any], kept: float | None) -> str:
    """Whether the student kept the gain."""
    student, ensemble = numbers["student"], numbers["ensemble"]
    size = f"{student['parameters']:,} parameters for the ensemble's {ensemble['parameters']:,}"
    accuracy = f"the student is right in {student['test_accuracy']:.2%}, with {size}"
    if kept is None:
        return f"There is no gain to keep: {accuracy}."
    if kept >= 1:
        return f"The student kept the whole gain: {accuracy}."
    return f"The student kept {f'{kept:.0%}' if kept > 0 else 'none'} of the gain: {accuracy}."


def describe_controls(numbers: dict[str, Any]) -> str:
    """The student against the same network without the ensemble's targets."""
    parts = []
    for name, text in (("labels_only", "on labels only"), ("generalist_targets", "on the generalist's targets")):
        comparison = numbers["significance"][f"student_vs_{name}"]
        parts.append(
            f"{outcome_of(comparison)} than {text} ({numbers['controls'][name]['test_accuracy']:.2%},"
            f" {format_p(comparison)})"
        )
    text = " and ".join(parts).replace("no different than", "no different from")
    return f"Against the same network with the same steps and seed, it is {text}."


def advise(numbers: dict[str, Any], paid: str, against: dict[str, str]) -> str:
    """What to ship."""
    if all(outcome == "better" for outcome in against.values()):
        return "Ship the student."
    if paid == "better":
        return "Try a wider student, more passes or more trials: the ensemble knows more than this student shows."
    return "Ship the network that was trained on labels only: it is simpler, and nothing here is significantly better."


def format_p(comparison: dict[str, Any]) -> str:
    """McNemar's p, such as 'p = 0.03' or 'p < 0.0001'."""
    p = comparison["p_value"]
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
