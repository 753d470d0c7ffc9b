"""The report: its figures against independent formulas, its verdict on planted runs, its page on hostile input."""

import itertools
import json
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from builders import quick_config, run_quick
from markupsafe import escape
from scipy.stats import norm
from sklearn.metrics import accuracy_score, log_loss, recall_score, top_k_accuracy_score

from raydistill.data.arrays import open_examples, read_split
from raydistill.errors import RunFolderError
from raydistill.report import compare_runs, format_table, read_report
from raydistill.report.answers import Answers, join_answers, reduce_answers
from raydistill.report.conclusions import conclude
from raydistill.report.metrics import (
    compare_models,
    measure_calibration_error,
    measure_quality,
    tabulate_coverage,
)
from raydistill.report.page import PageInputs, render_page
from raydistill.report.timeline import read_timeline
from raydistill.report.verdict import judge_run
from raydistill.storage.files import read_array, read_json, write_array, write_json
from raydistill.storage.run_folder import STAGES, RunFolder

MOST_BYTES = 5_000_000  # of a page
KINDS = {
    "specialists": {},
    "rivals": {"teacher": {"seeds": 2}, "transfer": {"without": ["3"]}},
    "seeds": {"teacher": {"kind": "seeds", "seeds": 2}, "student": {"labels_patience": 1}},
    "generalist": {
        "teacher": {"kind": "generalist"},
        "search": {"temperature": [3, 3], "label_weight": [0.2, 0.2]},
        "transfer": {"share": 0.5},
    },
}


@pytest.fixture(scope="module")
def find_run(tmp_path_factory):
    """A finished run of each kind, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("report")
    runs = {}

    def find(kind):
        if kind not in runs:
            runs[kind] = run_quick(quick_config(folder / kind, **KINDS[kind]))
        return runs[kind]

    return find


@pytest.fixture(scope="module")
def finished(find_run):
    return find_run("specialists")


@pytest.fixture(scope="module")
def report(finished):
    return read_report(finished)


def read_page(run):
    return (run.stage_folder("report") / "report.html").read_text()


def figures_of(report, name):
    return report[name] if name in report else report["controls"][name]


def draw(examples=700, classes=24, seed=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (examples,), generator=generator)
    logits = 2 * torch.randn(examples, classes, generator=generator)
    logits[torch.arange(examples), labels] += 2
    return torch.log_softmax(logits, 1), labels


def right_and_wrong(first_only, second_only, both=50, neither=10):
    first = [True] * first_only + [False] * second_only + [True] * both + [False] * neither
    second = [False] * first_only + [True] * second_only + [True] * both + [False] * neither
    return torch.tensor(first), torch.tensor(second)


def answers_of(labels, predicted):
    labels, predicted = torch.as_tensor(labels), torch.as_tensor(predicted)
    ones = torch.ones(len(labels), dtype=torch.float64)
    return Answers(labels, predicted, ones, -ones, torch.zeros_like(labels))


# figures of one model


def test_quality_agrees_with_scikit_learn():
    log_probs, labels = draw()
    quality = measure_quality(reduce_answers(log_probs, labels), 24)
    probs = log_probs.exp().numpy()
    assert quality["test_accuracy"] == pytest.approx(accuracy_score(labels, probs.argmax(1)))
    assert quality["test_top5"] == pytest.approx(top_k_accuracy_score(labels, probs, k=5, labels=range(24)))
    assert quality["test_nll"] == pytest.approx(log_loss(labels, probs / probs.sum(1, keepdims=True)), rel=1e-5)


def test_top5_is_left_out_for_few_classes():
    log_probs, labels = draw(classes=10)
    assert measure_quality(reduce_answers(log_probs, labels), 10)["test_top5"] is None


def test_blocks_joined_are_the_whole():
    log_probs, labels = draw()
    whole = reduce_answers(log_probs, labels)
    joined = join_answers([reduce_answers(*part) for part in zip(log_probs.split(99), labels.split(99), strict=True)])
    for name, value in vars(whole).items():
        assert torch.equal(value, getattr(joined, name)), name


def test_calibration_error_agrees_with_the_definition():
    log_probs, labels = draw()
    answers = reduce_answers(log_probs, labels)
    confidence, correct = answers.confidence.numpy(), answers.correct.numpy()
    expected = 0.0
    for lower in np.arange(15) / 15:  # bins ](b-1)/15, b/15]
        inside = (confidence > lower) & (confidence <= lower + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert measure_calibration_error(answers.confidence, answers.correct) == pytest.approx(expected)


def test_calibration_error_of_certain_models():
    right = torch.tensor([True, True, False, False])
    assert measure_calibration_error(torch.ones(4), right) == pytest.approx(0.5)
    assert measure_calibration_error(torch.full((4,), 0.5), right) == pytest.approx(0.0)
    assert measure_calibration_error(torch.zeros(4), ~right & right) == 0.0


# comparisons


@pytest.mark.parametrize(("first_only", "second_only"), [(30, 10), (10, 30), (7, 7), (1, 0), (0, 0), (400, 330)])
def test_mcnemar_agrees_with_the_binomial_sum(first_only, second_only):
    test = compare_models(*right_and_wrong(first_only, second_only))
    n, fewer = first_only + second_only, min(first_only, second_only)
    tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    assert test.p_value == pytest.approx(min(1.0, 2 * tail) if n else 1.0)
    assert (test.first_only_right, test.second_only_right) == (first_only, second_only)
    assert test.difference == pytest.approx((first_only - second_only) / (n + 60))


@pytest.mark.parametrize(
    "signed",
    [
        [3.0, 3.0, 0.25, 0.25, -0.25, 0.25, 0.25, -0.25, 0.25, 0.25],
        [6.0, 0.5, -0.5, -0.5, -0.5],  # one heavy example decides
        [-2.0, 0.3, 0.3],
        [1.0, 0.7, 0.4, -0.7, 0.4, 0.4, 1.0, 1.0, 0.7, 0.4, 1.0, 0.7],
        [0.1, 0.2, -0.3],  # a sum of 0
    ],
)
def test_weighted_p_agrees_with_all_flips_of_signs(signed):
    sums = np.array(list(itertools.product((-1, 1), repeat=len(signed)))) @ np.abs(signed)
    expected = (np.abs(sums) >= abs(sum(signed)) - 1e-9).mean()
    weights = torch.tensor([abs(value) for value in signed] + [1.0, 2.0], dtype=torch.float64)
    first = torch.tensor([value > 0 for value in signed] + [True, False])
    second = torch.tensor([value < 0 for value in signed] + [True, False])
    test = compare_models(first, second, weights)
    assert test.p_value == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 20_000) + 1e-4)
    assert compare_models(second, first, weights).p_value == test.p_value


def test_a_weighted_difference_is_that_of_balanced_accuracies():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [300, 60, 9])
    predicted = [np.where(generator.random(369) < share, labels, 3) for share in (0.8, 0.7)]
    weights = (369 / 3 / np.bincount(labels))[labels]
    right = [said == labels for said in predicted]
    test = compare_models(*map(torch.tensor, right), torch.tensor(weights))
    recalls = [recall_score(labels, said, labels=[0, 1, 2], average="macro", zero_division=0) for said in predicted]
    assert test.difference == pytest.approx(recalls[0] - recalls[1])
    signed = weights * (right[0].astype(float) - right[1])
    assert test.interval == pytest.approx(
        norm.interval(0.95, loc=test.difference, scale=np.std(signed) / math.sqrt(369)), abs=1e-6
    )


def test_equal_weights_are_mcnemars_test_and_sure_differences_are_told():
    pair = right_and_wrong(400, 330)
    assert compare_models(*pair, torch.ones(790, dtype=torch.float64)) == compare_models(*pair)
    weights = 1 + 1e-3 * torch.rand(790, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weighted = compare_models(*pair, weights)
    assert weighted.p_value == pytest.approx(compare_models(*pair).p_value, abs=0.004)
    assert compare_models(*right_and_wrong(400, 100), weights[:560]).p_value < 1e-4


def test_the_interval_covers_as_often_as_it_says():
    """2000 draws of 400 pairs, the true difference being 0.05: about 95 % of the intervals hold it."""
    generator = np.random.default_rng(4)
    held = 0
    for _ in range(2000):
        kind = generator.choice(4, size=400, p=[0.10, 0.05, 0.60, 0.25])
        test = compare_models(torch.tensor((kind == 0) | (kind == 2)), torch.tensor((kind == 1) | (kind == 2)))
        held += test.interval[0] <= 0.05 <= test.interval[1]
    assert 0.93 < held / 2000 < 0.97


def test_coverage_by_hand():
    """Classes 0 to 3 are covered by 0, 1, 1 and 2 specialists."""
    members = np.array([[False, True, False, True], [False, False, True, True]])
    labels = [0, 0, 1, 1, 2, 2, 3, 3]
    generalist = answers_of(labels, [0, 1, 1, 0, 2, 0, 3, 0])
    ensemble = answers_of(labels, [0, 1, 1, 1, 2, 0, 3, 3])
    rows = tabulate_coverage(members, generalist, ensemble)
    assert [(row["specialists"], row["examples"]) for row in rows] == [(0, 2), (1, 4), (2, 2)]
    assert [row["generalist_accuracy"] for row in rows] == [0.5, 0.5, 0.5]
    assert [row["ensemble_accuracy"] for row in rows] == [0.5, 0.75, 1.0]
    assert [row["relative_gain"] for row in rows] == pytest.approx([0.0, 0.5, 1.0])


def test_coverage_ends_with_ten_or_more_and_survives_hopeless_classes():
    members = np.ones((12, 2), dtype=bool)
    members[9:, 0] = False
    labels = [0, 1]
    rows = tabulate_coverage(members, answers_of(labels, [1, 1]), answers_of(labels, [0, 1]))
    assert [(row["specialists"], row["relative_gain"]) for row in rows] == [(9, None), (10, 0.0)]


# comparison of two runs


@pytest.fixture
def make_answers(tmp_path):
    """A run folder with the answers of two models, the second of which says 0 to everything."""

    def make(name, labels, predicted):
        folder = RunFolder(tmp_path / name).stage_folder("report")
        write_json(folder / "report.json", {"models": ["student", "naught"]})
        write_array(folder / "labels.npy", np.array(labels, dtype=np.int32))
        write_array(folder / "predicted.npy", np.array([predicted, np.zeros_like(predicted)], dtype=np.int32))
        return RunFolder(tmp_path / name)

    return make


def test_models_of_two_runs_are_compared_example_by_example(make_answers):
    labels = np.arange(200) % 5
    first, second = labels.copy(), labels.copy()
    first[:12] += 1  # wrong where the second is right
    second[12:17] += 1
    first[17:20] = second[17:20] = 9
    test = compare_runs(make_answers("a", labels, first), "student", make_answers("b", labels, second), "student")
    assert (test.first_only_right, test.second_only_right) == (5, 12)
    assert test.difference == pytest.approx(-7 / 200)
    assert test.p_value == pytest.approx(2 * sum(math.comb(17, k) for k in range(6)) / 2**17)


def test_a_run_compared_with_itself_gives_its_report(find_run):
    run = find_run("rivals")
    for pair, expected in read_report(run)["significance"].items():
        first, second = pair.split("_vs_")
        test = vars(compare_runs(run, first, run, second))
        assert {**test, "interval": list(test["interval"])} == expected, pair


def test_runs_with_other_test_examples_are_refused(make_answers, tmp_path):
    run = make_answers("a", [0, 1, 2, 3], [0, 1, 2, 2])
    for name, labels in (("b", [0, 1, 2, 4]), ("c", [0, 1, 2])):
        other = make_answers(name, labels, labels)
        with pytest.raises(RunFolderError, match="different test examples") as caught:
            compare_runs(run, "student", other, "student")
        assert str(run.path) in str(caught.value)
        assert str(other.path) in str(caught.value)
    with pytest.raises(RunFolderError, match="no model 'ensemble'; give one of student, naught"):
        compare_runs(run, "student", run, "ensemble")
    with pytest.raises(RunFolderError, match="has no report yet"):
        compare_runs(run, "student", RunFolder(tmp_path / "none"), "student")


# the verdict


def compare_planted(first, second, noise=0.02):
    """Models of these accuracies on 10,000 examples that disagree in `noise` beyond their difference."""
    more = round(abs(first - second) * 10_000)
    pair = (more + round(noise * 5000), round(noise * 5000))
    pair = pair if first >= second else pair[::-1]
    return vars(compare_models(*right_and_wrong(*pair, both=10_000 - sum(pair), neither=0)))


def planted(
    teacher="ensemble",
    generalist=0.80,
    ensemble=0.82,
    student=0.82,
    labels_only=0.80,
    targets=0.80,
    seeds=None,
    seeds_targets=None,
    train_loss=0.5,
    labels_patience=None,
    repair=None,
):
    """Numbers of a run of 10,000 test examples. ensemble: accuracy of the teacher, unless that is the generalist."""
    controls = {"labels_only": labels_only, "generalist_targets": targets, "seeds_targets": seeds_targets}
    if teacher == "generalist":
        controls["generalist_targets"] = None
    controls = {name: accuracy for name, accuracy in controls.items() if accuracy is not None}
    accuracies = {"generalist": generalist, teacher: generalist if teacher == "generalist" else ensemble}
    significance = {f"{teacher}_vs_generalist": compare_planted(accuracies[teacher], generalist)}
    if seeds is not None:
        accuracies["seeds"] = seeds
        significance["ensemble_vs_seeds"] = compare_planted(ensemble, seeds)
    significance |= {
        f"student_vs_{name}": compare_planted(student, other) for name, other in (accuracies | controls).items()
    }
    facts = {
        "generalist": {"train_loss": train_loss, "valid_loss": 0.6, "parameters": 1000},
        "ensemble": {"specialists": 16, "parameters": 1700},
        "seeds": {"members": 10, "parameters": 10_000},
    }
    return {
        "teacher": teacher,
        **{name: {"test_accuracy": accuracy, **facts[name]} for name, accuracy in accuracies.items()},
        "student": {"test_accuracy": student, "parameters": 100, **({"repair": repair} if repair else {})},
        "controls": {name: {"test_accuracy": accuracy} for name, accuracy in controls.items()},
        "significance": significance,
        "balance": {"prior": "natural", "test_distance": {"to_training": 0.0, "to_prior": 0.0}},
        "settings": {"student": {"labels_patience": labels_patience}},
    }


def test_verdict_when_all_went_well():
    verdict = judge_run(planted())
    assert verdict["specialists_paid"]
    assert verdict["student_beats_controls"]
    assert verdict["student_kept"] == pytest.approx(1.0)
    text = " ".join(verdict["sentences"])
    assert "The specialists paid: 80.00%" in text
    assert "10% fewer errors" in text
    assert "kept the whole gain" in text
    assert text.endswith("Ship the student.")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ensemble": 0.801}, "made no significant difference"),
        ({"ensemble": 0.801, "train_loss": 0.1}, "The generalist overfits (loss 0.10 nats"),
        ({"ensemble": 0.77}, "did harm"),
        ({"ensemble": 0.801}, "There is no gain to keep"),
        ({"student": 0.81}, "kept 50% of the gain"),
        ({"student": 0.79}, "kept none of the gain"),
        ({"student": 0.801}, "no different from on labels only"),
        ({"student": 0.76}, "worse than on labels only"),
        ({"student": 0.801}, "Try a wider student"),
        ({"ensemble": 0.80, "student": 0.80}, "Ship the network that was trained on labels only"),
        (
            {"labels_only": 0.78, "ensemble": 0.80, "student": 0.80},
            "Ship the network that was trained on the generalist's",
        ),
    ],
)
def test_verdict_says_what_went_wrong(changes, told):
    verdict = judge_run(planted(**changes))
    assert told in " ".join(verdict["sentences"])
    assert verdict["student_beats_controls"] == (changes.get("student", 0.82) > 0.805)


def test_verdict_of_an_ensemble_of_seeds():
    verdict = judge_run(planted("seeds", student=0.81))
    assert verdict["seeds_paid"]
    assert verdict["student_kept"] == pytest.approx(0.5)
    assert verdict["sentences"][0] == (
        "The ensemble paid: 80.00% of the test examples right with the generalist alone, 82.00% with 10 generalists of"
        " different seeds (p < 0.0001), 10% fewer errors."
    )
    assert "specialist" not in " ".join(verdict["sentences"])
    assert "100 parameters for the ensemble's 10,000" in verdict["sentences"][1]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seeds": 0.82, "seeds_targets": 0.80}, "With 10 generalists of different seeds, 82.00% are right"),
        ({"seeds": 0.82, "seeds_targets": 0.80}, "specialists are no different from those (p = 1)"),
        ({"seeds": 0.80, "seeds_targets": 0.80}, "specialists are better than those (p < 0.0001)"),
        ({"seeds": 0.84, "seeds_targets": 0.80}, "specialists are worse than those"),
        (
            {"seeds": 0.82, "seeds_targets": 0.82},
            "targets (80.00%, p < 0.0001) and no different from on the seeds' targets",
        ),
        ({"seeds": 0.82, "seeds_targets": 0.82}, "Ship the student."),
        ({"seeds": 0.84, "seeds_targets": 0.84}, "Ship the network that was trained on the seeds' targets"),
        ({"labels_patience": 3}, "than on labels only with early stopping (80.00%"),
    ],
)
def test_verdict_of_specialists_against_seeds(changes, told):
    assert told in " ".join(judge_run(planted(**changes))["sentences"])


@pytest.mark.parametrize(
    ("changes", "kept", "told"),
    [
        ({}, 0.5, "The student kept 50% of the lead that its teacher has over labels only."),
        ({}, 0.5, "Ship the student."),
        ({"student": 0.83}, 1.5, "kept the whole lead"),
        ({"student": 0.79}, -0.5, "kept none of the lead"),
        ({"student": 0.801}, 0.05, "Try a wider student, more passes or more trials: the teacher knows more"),
        ({"generalist": 0.80, "student": 0.80}, None, "The teacher has no lead over labels only."),
        ({"generalist": 0.80, "student": 0.80}, None, "Ship the network that was trained on labels only"),
    ],
)
def test_verdict_of_plain_distillation(changes, kept, told):
    verdict = judge_run(planted("generalist", **{"generalist": 0.82, "student": 0.81, **changes}))
    assert verdict["student_kept"] == (None if kept is None else pytest.approx(kept))
    assert told in " ".join(verdict["sentences"])
    assert "specialist" not in " ".join(verdict["sentences"])


def test_verdict_of_plain_distillation_gives_all_figures():
    assert judge_run(planted("generalist", generalist=0.82, student=0.81))["sentences"][0].startswith(
        "The student, 100 parameters, is right in 81.00% of the test examples; its teacher, 1,000 parameters, in"
        " 82.00%; the same network on labels only in 80.00% (p < 0.0001)."
    )


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (["3"], "has few or no examples of class 3; its bias was fitted"),
        (["3", "7"], "of classes 3 and 7; their biases were fitted"),
        (list("abcdefgh"), "of classes a, b, c, d, e and 3 more; their biases were fitted"),
    ],
)
def test_verdict_tells_of_a_repair(classes, told):
    repair = {"classes": classes, "offsets": [3.5] * len(classes), "unrepaired": {"test_accuracy": 0.71}}
    text = " ".join(judge_run(planted(repair=repair))["sentences"])
    assert told in text
    assert "took the student from 71.00% of the test examples right to 82.00%." in text


def planted_uneven(prior):
    """9,000 test examples of a frequent class, 1,000 of a rare one: labels only are right more often, but less evenly.

    The student wins by balanced accuracy, 80 % to 74.5 %, and loses by plain accuracy, 80 % to 94.1 %.
    """
    right = {
        name: torch.cat([torch.arange(9000) < 9000 * frequent, torch.arange(1000) < 1000 * rare])
        for name, (frequent, rare) in {
            "generalist": (0.70, 0.70),
            "ensemble": (0.80, 0.80),
            "student": (0.80, 0.80),
            "labels_only": (0.99, 0.50),
        }.items()
    }
    weights = (
        None
        if prior == "natural"
        else torch.tensor([5 / 9, 5.0], dtype=torch.float64).repeat_interleave(torch.tensor([9000, 1000]))
    )
    numbers = planted(targets=None)
    for name, correct in right.items():
        figures = numbers.get(name) or numbers["controls"][name]
        figures["test_accuracy"] = float(correct.double().mean())
        if weights is not None:
            figures["accuracy_at_prior"] = float((correct[:9000].double().mean() + correct[9000:].double().mean()) / 2)
    pairs = [name.split("_vs_") for name in numbers["significance"]]
    numbers["significance"] = {
        f"{first}_vs_{second}": vars(compare_models(right[first], right[second], weights)) for first, second in pairs
    }
    distance = {"to_training": 0.0, "to_prior": 0.4}
    return numbers | {"balance": {"prior": prior, "test_distance": distance}}


def test_advice_follows_the_shares_that_were_asked_for():
    plain, equal = judge_run(planted_uneven("natural")), judge_run(planted_uneven("equal"))
    assert not plain["student_beats_controls"]
    assert plain["sentences"][-1].startswith("Ship the network that was trained on labels only")
    assert "worse than on labels only (94.10%, p < 0.0001)" in plain["sentences"][2]
    assert equal["student_beats_controls"]
    assert equal["sentences"][0] == (
        "Models are judged by balanced accuracy: test examples are weighted to classes that are all as frequent, as"
        " balance.prior equal wants."
    )
    assert equal["sentences"][1] == (
        "The specialists paid: 70.00% of the weighted test examples right with the generalist alone, 80.00% with its"
        " 16 specialists (p < 0.0001), 33% fewer errors."
    )
    assert "better than on labels only (74.50%, p < 0.0001)" in equal["sentences"][3]
    assert "look at balanced accuracy, 80.00% for the student" in equal["sentences"][4]
    assert equal["sentences"][-1] == "Ship the student."


def test_who_is_missing_comes_before_by_what_models_are_judged():
    skipped = [{"index": 1, "classes": ["a"], "attempts": 3, "reason": "none"}]
    sentences = judge_run(planted_uneven("equal") | {"skipped": skipped})["sentences"]
    assert sentences[0].startswith("The ensemble is degraded")
    assert sentences[1].startswith("Models are judged by balanced accuracy")


def test_plain_distillation_keeps_a_lead_at_the_shares_that_were_asked_for():
    """The teacher leads by balanced accuracy alone."""
    numbers = planted("generalist", generalist=0.80, student=0.80, labels_only=0.94)
    assert judge_run(numbers)["student_kept"] is None
    for figures, value in (
        (numbers["generalist"], 0.80),
        (numbers["student"], 0.78),
        (numbers["controls"]["labels_only"], 0.70),
    ):
        figures["accuracy_at_prior"] = value
    numbers["balance"]["prior"] = "sqrt"
    verdict = judge_run(numbers)
    assert verdict["student_kept"] == pytest.approx(0.8)
    assert (
        "is right in 78.00% of the weighted test examples; its teacher, 1,000 parameters, in 80.00%"
        in (verdict["sentences"][1])
    )


# the run's report


def test_report_has_what_readers_rely_on(report):
    assert report["data"] == {
        "source": "digits",
        "examples": 1797,
        "classes": 10,
        "shape": [8, 8],
        "splits": {"fit": 1223, "confuse": 179, "tune": 179, "test": 216},
        "given": [],
        "corrupt": 0,
        "seed": 0,
    }
    for model in (report["generalist"], report["ensemble"], report["student"], *report["controls"].values()):
        assert 0 <= model["test_accuracy"] <= 1
        assert model["test_nll"] > 0
        assert model["parameters"] > 0
    assert set(report["controls"]) == {"labels_only", "generalist_targets"}
    assert report["teacher"] == "ensemble"
    assert report["transfer"] == {"examples": 1223, "share_of_training": 1.0, "unlabeled": 0}
    assert "seeds" not in report
    assert list(report["significance"]) == [
        "ensemble_vs_generalist",
        "student_vs_generalist",
        "student_vs_ensemble",
        "student_vs_labels_only",
        "student_vs_generalist_targets",
    ]
    assert 0 < report["student"]["temperature"] < 20
    assert 0 <= report["student"]["label_weight"] <= 0.5
    assert [stage["name"] for stage in report["stages"]] == [name for name in STAGES if name != "seeds"]
    assert not any(stage["skipped"] for stage in report["stages"])
    assert sum(row["examples"] for row in report["coverage"]) == 216
    assert len(report["groups"]) == report["ensemble"]["specialists"] == 3


def test_report_agrees_with_the_models_themselves(finished, report):
    """The figures again, from the public functions and the test rows."""
    from raydistill import load_ensemble, load_student

    examples, rows = open_examples(finished), read_split(finished, "test")
    x, labels = examples.x[rows], examples.y[rows]
    said = load_student(finished.path)(x).argmax(1)
    assert report["student"]["test_accuracy"] == pytest.approx(float((said == labels).double().mean()))
    log_probs = load_ensemble(finished.path)(x)
    assert report["ensemble"]["test_accuracy"] == pytest.approx(float((log_probs.argmax(1) == labels).double().mean()))
    assert report["ensemble"]["test_nll"] == pytest.approx(
        -float(log_probs.gather(1, labels[:, None]).mean()), rel=1e-5
    )


def test_the_table_shows_every_model(report):
    text = format_table(report)
    for model in (report["generalist"], report["ensemble"], report["student"], *report["controls"].values()):
        assert f"{model['test_accuracy']:.2%}" in text
    assert report["verdict"]["sentences"][0] in text
    for name in ("ensemble: generalist and 3 specialists", "labels only", "generalist's targets"):
        assert name in text
    assert "repair" not in text


@pytest.mark.parametrize(
    ("kind", "teacher", "models", "compared"),
    [
        (
            "rivals",
            "ensemble",
            ["generalist", "ensemble", "seeds", "student", "labels_only", "generalist_targets", "seeds_targets"],
            {
                *("ensemble_vs_generalist", "student_vs_generalist", "student_vs_ensemble", "ensemble_vs_seeds"),
                *("student_vs_labels_only", "student_vs_generalist_targets", "student_vs_seeds_targets"),
            },
        ),
        (
            "seeds",
            "seeds",
            ["generalist", "seeds", "student", "labels_only", "generalist_targets"],
            {
                *("seeds_vs_generalist", "student_vs_generalist", "student_vs_seeds"),
                *("student_vs_labels_only", "student_vs_generalist_targets"),
            },
        ),
        (
            "generalist",
            "generalist",
            ["generalist", "student", "labels_only"],
            {"student_vs_generalist", "student_vs_labels_only"},
        ),
    ],
)
def test_report_of_each_kind(find_run, kind, teacher, models, compared):
    report = read_report(find_run(kind))
    assert report["teacher"] == teacher
    assert report["models"] == models
    assert set(report["significance"]) == compared
    assert list(report["controls"]) == [name for name in models if name == "labels_only" or name.endswith("_targets")]
    for name in ("ensemble", "seeds"):
        assert (name in report) == (name in models)
    for name in ("coverage", "groups", "grouping"):
        assert (name in report) == ("ensemble" in models)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_on_disk_give_the_figures_again(find_run, kind):
    from raydistill.data.arrays import open_examples, read_split

    run = find_run(kind)
    report = read_report(run)
    predicted, labels = (read_array(run.stage_folder("report") / f"{name}.npy") for name in ("predicted", "labels"))
    assert predicted.dtype == labels.dtype == np.int32
    assert predicted.shape == (len(report["models"]), 216)
    np.testing.assert_array_equal(labels, open_examples(run).y[read_split(run, "test")])
    for name, answers in zip(report["models"], predicted, strict=True):
        assert figures_of(report, name)["test_accuracy"] == pytest.approx(accuracy_score(labels, answers)), name


@pytest.mark.parametrize("kind", ["rivals", "seeds"])
def test_figures_of_the_seeds_agree_with_the_mean_of_their_probabilities(find_run, kind):
    from safetensors.torch import load_file

    from raydistill.data.arrays import open_examples, read_split

    run = find_run(kind)
    examples, rows = open_examples(run), read_split(run, "test")
    folders = [run.stage_folder("generalist"), run.seed_folder(1)]
    weights = [load_file(folder / "weights.safetensors") for folder in folders]
    probs = sum(forward_mlp(tensors, examples.x[rows]).softmax(1) for tensors in weights).numpy() / 2
    seeds, labels = read_report(run)["seeds"], examples.y[rows]
    assert seeds["test_accuracy"] == pytest.approx(accuracy_score(labels, probs.argmax(1)))
    assert seeds["test_nll"] == pytest.approx(log_loss(labels, probs), rel=1e-5)
    assert seeds["members"] == 2
    assert seeds["parameters"] == 2 * (64 * 24 + 24 + 24 * 10 + 10)


def forward_mlp(tensors, x, bias_offsets=0.0):
    """Logits of a quick run's network, from its weights alone."""
    first, last = sorted(name.removesuffix(".weight") for name in tensors if name.endswith(".weight"))
    mean, inverse_std = (
        next(value for name, value in tensors.items() if name.endswith(end)) for end in ("mean", "_std")
    )
    hidden = ((x.float().flatten(1) - mean) * inverse_std) @ tensors[f"{first}.weight"].T + tensors[f"{first}.bias"]
    return hidden.relu() @ tensors[f"{last}.weight"].T + tensors[f"{last}.bias"] + bias_offsets


def test_figures_before_the_repair_agree_with_the_student_whose_biases_are_taken_back(find_run):
    from safetensors.torch import load_file

    from raydistill.data.arrays import open_examples, read_split

    run = find_run("rivals")
    student = read_report(run)["student"]
    assert student["repair"]["classes"] == ["3"]
    examples, rows = open_examples(run), read_split(run, "test")
    labels, tensors = examples.y[rows], load_file(run.student_folder("student") / "weights.safetensors")
    taken_back = torch.zeros(10)
    taken_back[3] = -student["repair"]["offsets"][0]
    for figures, offsets in ((student, torch.zeros(10)), (student["repair"]["unrepaired"], taken_back)):
        probs = forward_mlp(tensors, examples.x[rows], offsets).softmax(1).numpy()
        assert figures["test_accuracy"] == pytest.approx(accuracy_score(labels, probs.argmax(1)))
        assert figures["test_nll"] == pytest.approx(log_loss(labels, probs), rel=1e-5)
    before = student["repair"]["unrepaired"]
    assert student["test_accuracy"] > before["test_accuracy"]
    row = next(line for line in format_table(read_report(run)).splitlines() if line.startswith("the same before"))
    assert row.split()[-4:-2] == [f"{before['test_accuracy']:.2%}", f"{before['test_nll']:.4f}"]


def test_the_transfer_set_is_told(find_run):
    from raydistill.data.arrays import open_examples, read_split

    run = find_run("rivals")
    labels = open_examples(run).y[read_split(run, "fit")]
    kept = int((labels != 3).sum())
    share = pytest.approx(kept / len(labels))
    assert read_report(run)["transfer"] == {"examples": kept, "share_of_training": share, "unlabeled": 0}
    assert re.search(
        rf"transfer set of {kept:,} examples,\s+{kept / len(labels):.2%} of the training rows, without 3.",
        read_page(run),
    )
    share = read_report(find_run("generalist"))["transfer"]["share_of_training"]
    assert share == pytest.approx(0.5, abs=0.01)
    assert re.search(rf"{share:.2%} of the training rows\.", read_page(find_run("generalist")))


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        (
            "rivals",
            (
                "ensemble: generalist and 3 specialists",
                "ensemble: 2 generalists of different seeds",
                "the same before its repair",
                "control: same network, seeds' targets",
            ),
        ),
        ("seeds", ("ensemble: 2 generalists of different seeds", "control: same network, generalist's targets")),
        ("generalist", ("control: same network, labels only",)),
    ],
)
def test_the_table_of_each_kind(find_run, kind, rows):
    report = read_report(find_run(kind))
    text = format_table(report)
    for row in rows:
        assert row in text
    for name in report["models"]:
        assert f"{figures_of(report, name)['test_accuracy']:.2%}" in text
    assert len(text.split("\n\n")[0].splitlines()) == 1 + len(report["models"]) + ("repair" in report["student"])


@pytest.mark.parametrize(
    ("kind", "has", "has_not"),
    [
        (
            "rivals",
            ("Gain by coverage", "Group 0", "(boxes,", "generalists of other seeds,", "before its repair"),
            ("stops once the tune split",),
        ),
        (
            "seeds",
            (
                "Each generalist of another seed",
                "stops once the tune split",
                "ensemble of seeds",
                "in the order of their numbers",
            ),
            ("Gain by coverage", "Group 0", "(boxes,", "pecialist", "before its repair"),
        ),
        (
            "generalist",
            (
                "Fixed by the settings: temperature 3.00",
                "the control on labels only",
                "student mended",
                "learned from a transfer set of",
            ),
            ("Gain by coverage", "Group 0", "(boxes,", "trials", "pecialist"),
        ),
    ],
)
def test_the_page_of_each_kind(find_run, kind, has, has_not):
    run = find_run(kind)
    page, conclusions = read_page(run), read_report(run)["conclusions"]
    text = page[page.index("<main>") : page.index("All settings")]
    for words in has:
        assert words in text
    for words in has_not:
        assert words not in text
    for sentence in conclusions.values():
        assert str(escape(sentence)) in text


def test_a_run_done_again_with_another_teacher_shows_nothing_of_the_former(tmp_path):
    run_quick(quick_config(tmp_path / "run"))
    run = run_quick(quick_config(tmp_path / "run", teacher={"kind": "generalist"}), on_change="redo")
    assert read_report(run)["models"] == ["generalist", "student", "labels_only"]
    assert "Groups and specialists" not in read_page(run)


def test_the_page_is_whole_and_needs_no_network(finished):
    page = read_page(finished)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert "<script" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert len(page) < MOST_BYTES
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    for picture in pictures:
        assert ET.fromstring(picture).get("aria-label")
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:href="#|url\(#)([^")]*)', page):
        assert target in ids
    for heading in ("Models", "What changed", "Groups and specialists", "Confidence", "Search and training", "Time"):
        assert heading in page
    assert "transfer set" not in page


def render_again(run, numbers, models=None):
    """The page of a run with other numbers, and other answers where such are given."""
    examples, rows = open_examples(run), read_split(run, "test")
    if models is None:
        folder = run.stage_folder("report")
        labels = torch.from_numpy(read_array(folder / "labels.npy")).long()
        predicted = torch.from_numpy(read_array(folder / "predicted.npy")).long()
        models = {name: answers_of(labels, said) for name, said in zip(numbers["models"], predicted, strict=True)}
    stages = [stage["name"] for stage in numbers["stages"]]
    return render_page(PageInputs(run, numbers, models, examples, rows, read_timeline(run, stages)))


def test_names_of_classes_cannot_break_the_page(finished, report):
    hostile = json.loads(json.dumps(report))
    hostile["groups"][0]["name"] = "<script>alert(1)</script> & «日本»"
    hostile["data"]["source"] = "npz:</title><b>"
    hostile["verdict"]["sentences"][0] = "class <script>alert(2)</script>"
    hostile["settings"]["transfer"]["without"] = ["<script>alert(3)</script>"]
    hostile["transfer"]["share_of_training"] = 0.5
    hostile["conclusions"] |= {"groups": "<script>alert(4)</script>", "search": '"><script>alert(5)</script>'}
    page = render_again(finished, hostile)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; «日本»" in page
    assert "without &lt;script&gt;alert(3)&lt;/script&gt;." in page
    assert "&lt;script&gt;alert(4)" in page


def test_a_degraded_run_is_declared_at_the_top(finished, report):
    lamed = json.loads(json.dumps(report))
    lamed["skipped"] = [{"index": 1, "attempts": 3, "reason": "RuntimeError: <broken>", "classes": ["3", "5"]}]
    lamed["groups"][1]["seconds"] = None
    lamed["ensemble"]["specialists"] = 2
    lamed["verdict"] = judge_run(lamed)
    lamed["conclusions"] = conclude(lamed)
    page = render_again(finished, lamed)
    place = page.index("This run is degraded.")
    assert place < page.index('class="headline"')
    assert "RuntimeError: &lt;broken&gt;" in page[place : place + 800]
    assert page.count("The ensemble is degraded") == 1
    assert "Its specialist is not part of the ensemble." in page
    assert "of 2 specialists mended" in page
    assert "This run is degraded" not in read_page(finished)


def test_a_group_without_test_examples_has_no_accuracies(finished, report):
    bare = json.loads(json.dumps(report))
    bare["groups"][2] |= dict.fromkeys(("generalist_accuracy", "ensemble_accuracy", "student_accuracy"))
    bare["groups"][2] |= {"test_examples": 0, "fixed": 0, "broken": 0}
    bare["conclusions"] = conclude(bare)
    assert "– → –" in render_again(finished, bare)
    assert "of 2 groups" in bare["conclusions"]["groups"]


def test_balanced_accuracy_is_a_column_where_it_is_measured(finished, report):
    assert "balanced accuracy" not in read_page(finished) or "balanced_accuracy" in report["generalist"]
    balanced = json.loads(json.dumps(report))
    for figures in (balanced["generalist"], balanced["ensemble"], balanced["student"], *balanced["controls"].values()):
        figures["balanced_accuracy"] = 0.4321
    assert render_again(finished, balanced).count("<td>43.21%</td>") == 5


def test_the_test_rows_are_read_by_the_report_alone():
    """No other module of the package names the test split, but those that make it."""
    from pathlib import Path

    import raydistill

    package = Path(raydistill.__file__).parent
    readers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"""read_split\([^)]*["']test["']""", path.read_text())
    }
    assert readers == {"report/build.py"}


def test_groups_are_named_whole_in_the_report(finished, report):
    members = read_array(finished.stage_folder("groups") / "members.npy")
    names = read_json(finished.stage_folder("data") / "classes.json")
    for group, row in zip(report["groups"], members, strict=True):
        assert group["name"] == f"«{''.join(name for name, inside in zip(names, row, strict=True) if inside)}»"


@pytest.mark.parametrize("teacher", [{}, {"kind": "generalist"}])
def test_a_run_without_controls_says_so(tmp_path, teacher):
    run = run_quick(quick_config(tmp_path / "run", teacher=teacher, student={"controls": False}))
    report = read_report(run)
    assert report["controls"] == {}
    assert report["verdict"]["student_beats_controls"] is False
    assert report["verdict"]["sentences"][-1].startswith("No control was trained (student.controls)")
    assert "Against the same network" not in " ".join(report["verdict"]["sentences"])
    assert "and control" not in read_page(run)[read_page(run).index("<main>") :]
