"""The report: its figures against independent formulas, its verdict on planted runs, its page on hostile input."""

import json
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from builders import quick_config, run_quick
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, top_k_accuracy_score

from raydistill.files import read_array, read_json
from raydistill.report import format_table, read_report
from raydistill.report.answers import Answers, join_answers, reduce_answers
from raydistill.report.metrics import (
    compare_models,
    measure_calibration_error,
    measure_quality,
    tabulate_coverage,
)
from raydistill.report.page import render_page
from raydistill.report.pictures import count_errors, order_classes
from raydistill.report.verdict import judge_run
from raydistill.run_folder import STAGES


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_quick(quick_config(tmp_path_factory.mktemp("report") / "run"))


@pytest.fixture(scope="module")
def report(finished):
    return read_report(finished)


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


# the verdict


def planted(generalist=0.80, ensemble=0.82, student=0.82, labels_only=0.80, targets=0.80, noise=0.02, train_loss=0.5):
    """Numbers of a run of 10,000 test examples, of which two models disagree in `noise` beyond their difference."""

    def compare(first, second):
        more = round(abs(first - second) * 10_000)
        pair = (more + round(noise * 5000), round(noise * 5000))
        pair = pair if first >= second else pair[::-1]
        return vars(compare_models(*right_and_wrong(*pair, both=10_000 - sum(pair), neither=0)))

    return {
        "generalist": {"test_accuracy": generalist, "train_loss": train_loss, "valid_loss": 0.6},
        "ensemble": {"test_accuracy": ensemble, "specialists": 16, "parameters": 1700},
        "student": {"test_accuracy": student, "parameters": 100},
        "controls": {
            "labels_only": {"test_accuracy": labels_only},
            "generalist_targets": {"test_accuracy": targets},
        },
        "significance": {
            "ensemble_vs_generalist": compare(ensemble, generalist),
            "student_vs_labels_only": compare(student, labels_only),
            "student_vs_generalist_targets": compare(student, targets),
        },
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
    ],
)
def test_verdict_says_what_went_wrong(changes, told):
    verdict = judge_run(planted(**changes))
    assert told in " ".join(verdict["sentences"])
    assert verdict["student_beats_controls"] == (changes.get("student", 0.82) > 0.805)


# the run's report


def test_report_has_what_readers_rely_on(report):
    assert report["data"] == {
        "source": "digits",
        "examples": 1797,
        "classes": 10,
        "shape": [8, 8],
        "splits": {"fit": 1223, "confuse": 179, "tune": 179, "test": 216},
        "seed": 0,
    }
    for model in (report["generalist"], report["ensemble"], report["student"], *report["controls"].values()):
        assert 0 <= model["test_accuracy"] <= 1
        assert model["test_nll"] > 0
        assert model["parameters"] > 0
    assert set(report["controls"]) == {"labels_only", "generalist_targets"}
    assert 0 < report["student"]["temperature"] < 20
    assert 0 <= report["student"]["label_weight"] <= 0.5
    assert [stage["name"] for stage in report["stages"]] == list(STAGES)
    assert not any(stage["skipped"] for stage in report["stages"])
    assert sum(row["examples"] for row in report["coverage"]) == 216
    assert len(report["groups"]) == report["ensemble"]["specialists"] == 3


def test_report_agrees_with_the_models_themselves(finished, report):
    """The figures again, from the public functions and the test rows."""
    from raydistill import load_ensemble, load_student
    from raydistill.data.arrays import open_examples, read_split

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


def test_the_page_is_whole_and_needs_no_network(finished):
    page = (finished.stage_folder("report") / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert "<script" not in page
    assert "@import" not in page
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 6
    for picture in pictures:
        assert ET.fromstring(picture).tag.endswith("svg")
    for heading in (
        "On the test split",
        "Confusions",
        "Gain by coverage",
        "Search",
        "Groups",
        "Learning curves",
        "fan-out",
    ):
        assert heading in page


def test_names_of_classes_cannot_break_the_page(finished, report):
    hostile = json.loads(json.dumps(report))
    hostile["groups"][0]["name"] = "<script>alert(1)</script> & «日本»"
    hostile["data"]["source"] = "npz:</title><b>"
    answers = answers_of([0, 1, 2], [0, 2, 2])
    page = render_page(finished, hostile, dict.fromkeys(("generalist", "ensemble", "student"), answers))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; «日本»" in page


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


# pictures


def test_classes_come_in_group_order():
    members = np.array([[True, False, True, True, False], [False, True, False, True, False]])
    affinity = np.zeros((5, 5))
    affinity[3, 1] = affinity[1, 3] = 5.0  # class 3 is in both groups, and confused with class 1
    affinity[0, 2] = affinity[2, 0] = 1.0
    order, ends = order_classes(members, affinity)
    assert order.tolist() == [0, 2, 1, 3, 4]
    assert ends == [2, 4]


def test_errors_are_the_confusion_matrix_in_order_without_its_diagonal():
    log_probs, labels = draw()
    order = np.random.default_rng(2).permutation(24)
    expected = confusion_matrix(labels, log_probs.argmax(1), labels=order)
    np.fill_diagonal(expected, 0)
    np.testing.assert_array_equal(count_errors(reduce_answers(log_probs, labels), order), expected)


def test_many_classes_share_pixels():
    log_probs, labels = draw(classes=25)
    whole = count_errors(reduce_answers(log_probs, labels), np.arange(25))
    shared = count_errors(reduce_answers(log_probs, labels), np.arange(25), most=7)  # blocks of 4 classes
    expected = [[whole[i : i + 4, j : j + 4].sum() for j in range(0, 25, 4)] for i in range(0, 25, 4)]
    np.testing.assert_array_equal(shared, expected)


def test_groups_are_named_whole_in_the_report(finished, report):
    members = read_array(finished.stage_folder("groups") / "members.npy")
    names = read_json(finished.stage_folder("data") / "classes.json")
    for group, row in zip(report["groups"], members, strict=True):
        assert group["name"] == f"«{''.join(name for name, inside in zip(names, row, strict=True) if inside)}»"
