"""What the report concludes from each figure: sentences of planted numbers."""

import math

import pytest
from scipy.stats import kendalltau

from raydistill.report import conclusions, economy
from raydistill.report.kept import conclude_kept, list_kept
from raydistill.report.trials import measure_gaps


def significance(*pairs):
    return {
        name: {"p_value": p, "first_only_right": fixed, "second_only_right": broken, "difference": 0.0}
        for name, p, fixed, broken in pairs
    }


def trial(temperature, label_weight, *values, longest=3):
    return {
        "temperature": temperature,
        "label_weight": label_weight,
        "values": values,
        "stopped_early": len(values) < longest,
    }


def group(fixed, broken, seconds, generalist=0.5, ensemble=0.6):
    accuracies = {"generalist_accuracy": generalist, "ensemble_accuracy": ensemble, "test_examples": 100}
    return {"fixed": fixed, "broken": broken, "seconds": seconds, **accuracies}


def test_models_come_in_the_order_of_their_accuracy():
    numbers = {
        "models": ["generalist", "ensemble", "student", "labels_only"],
        "balance": {"prior": "natural"},
        "generalist": {"test_accuracy": 0.80},
        "ensemble": {"test_accuracy": 0.82},
        "student": {"test_accuracy": 0.81},
        "controls": {"labels_only": {"test_accuracy": 0.78}},
    }
    assert conclusions.conclude_accuracies(numbers) == (
        "Most often right is the ensemble (82.00%), then the student (81.00%), the generalist (80.00%) and the control"
        " on labels only (78.00%)."
    )
    for prior, measure in (("equal", "balanced accuracy"), ("sqrt", "weighted accuracy")):
        numbers["balance"]["prior"] = prior
        for name, value in (("generalist", 0.6), ("ensemble", 0.5), ("student", 0.7)):
            numbers[name]["accuracy_at_prior"] = value
        numbers["controls"]["labels_only"]["accuracy_at_prior"] = 0.4
        assert conclusions.conclude_accuracies(numbers).endswith(
            f"(78.00%). By {measure} the first is the student (70.00%), then the generalist (60.00%), the ensemble"
            " (50.00%) and the control on labels only (40.00%)."
        )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((0.001, 0.002), "All 2 differences are beyond chance (p < 0.01)."),
        ((0.5, 0.2), "None of the 2 differences is beyond chance (p < 0.01)."),
        (
            (0.001, 0.2),
            "1 of 2 differences is beyond chance (p < 0.01); no difference is shown between the student and the"
            " control on labels only.",
        ),
    ],
)
def test_differences_beyond_chance_are_counted(values, told):
    pairs = zip(("ensemble_vs_generalist", "student_vs_labels_only"), values, (1, 1), (1, 1), strict=True)
    assert conclusions.conclude_comparisons({"significance": significance(*pairs)}) == told


@pytest.mark.parametrize(
    ("ensemble", "student", "told"),
    [
        (
            (60, 10),
            (80, 10),
            "the ensemble makes 25.0% fewer there and as many elsewhere; the student makes as many there",
        ),
        (
            (88, 10),
            (80, 15),
            "the ensemble makes 10.0% more there and as many elsewhere; the student makes as many there",
        ),
        ((80, 10), (80, 15), "the student makes as many there and 15 for 10 elsewhere."),
    ],
)
def test_errors_inside_and_outside_of_groups(ensemble, student, told):
    pairs = {"generalist": (80, 10), "ensemble": ensemble, "student": student}
    errors = {name: {"inside": inside, "outside": outside} for name, (inside, outside) in pairs.items()}
    text = conclusions.conclude_confusions({"teacher": "ensemble", "errors": errors, "groups": []})
    assert text.startswith("89% of the generalist's 90 errors lie inside a group; ")
    assert told in text


def test_errors_without_groups_or_without_errors():
    errors = {"generalist": {"inside": 0, "outside": 50}, "student": {"inside": 0, "outside": 40}}
    numbers = {"teacher": "generalist", "errors": errors}
    assert conclusions.conclude_confusions(numbers) == "The generalist makes 50 errors; the student makes 20.0% fewer."
    errors["generalist"]["outside"] = 0
    assert "no errors" in conclusions.conclude_confusions(numbers)


@pytest.mark.parametrize(
    ("teacher", "pair", "counts", "told"),
    [
        ("ensemble", "ensemble_vs_generalist", (30, 12), "The ensemble mends 30 test examples that the generalist has"),
        ("ensemble", "ensemble_vs_generalist", (30, 12), "breaks 12 that it has right, 2.5 for one (p = 0.02)."),
        ("generalist", "student_vs_generalist", (3, 0), "The student mends 3"),
        ("generalist", "student_vs_generalist", (3, 0), "breaks 0 that it has right (p = 0.02)."),
    ],
)
def test_examples_mended_and_broken(teacher, pair, counts, told):
    numbers = {"teacher": teacher, "significance": significance((pair, 0.02, *counts)), "balance": {"prior": "natural"}}
    assert told in conclusions.conclude_changes(numbers)
    numbers["balance"]["prior"] = "equal"
    assert conclusions.conclude_changes(numbers).endswith(" (p = 0.02, weighted).")


@pytest.mark.parametrize(
    ("gains", "told"),
    [
        ((0.01, 0.02, 0.05), "The more specialists cover a class, the more it gains: +1.0% with 0, +5.0% with 2."),
        ((0.01, 0.00, 0.05), "gain more than those of few, if not step by step: +1.0% with 0, +5.0% with 2."),
        ((0.01, 0.02, 0.01), "More specialists for a class do not mean more gain here: +1.0% with 0, +1.0% with 2."),
        ((0.01, None, None), "All test examples are covered by as many specialists."),
    ],
)
def test_gain_by_coverage(gains, told):
    rows = [{"specialists": index, "examples": 1000, "relative_gain": gain} for index, gain in enumerate(gains)]
    few = {"specialists": 9, "examples": 1, "relative_gain": -0.5}  # too few examples to tell
    assert told in conclusions.conclude_coverage({"coverage": [*rows, few]})
    assert conclusions.conclude_coverage({}) is None


def test_specialists_that_were_not_worth_it_are_named():
    groups = [group(9, 4, 10.0), group(2, 2, 5.0), group(30, 10, 100.0), group(1, 3, 7.0), group(50, 0, None)]
    assert conclusions.conclude_costs({"groups": groups}) == (
        "2 of 4 specialists mended more than they broke; for its time, number 0 did most (+5 examples in 10 s); numbers"
        " 1 and 3 took 12 s of 2 min 2 s and gained nothing."
    )
    assert conclusions.conclude_costs({"groups": [group(5, 1, 2.0)]}) == (
        "1 of 1 specialists mended more than they broke; for its time, number 0 did most (+4 examples in 2.0 s)."
    )
    assert conclusions.conclude_costs({}) is None


def test_groups_that_gained():
    groups = [group(0, 0, 1, 0.5, 0.4), group(0, 0, 1, 0.5, 0.7), group(0, 0, 1, 0.5, 0.6)]
    assert conclusions.conclude_groups({"groups": groups}) == (
        "The ensemble is better than the generalist in 2 of 3 groups, most in group 1: 50.0% to 70.0%."
    )
    assert conclusions.conclude_groups({"groups": groups[:1]}).endswith("in 0 of 1 groups.")


def test_confidence_against_accuracy():
    means = {"generalist": 0.85, "ensemble": 0.802, "student": 0.70}
    numbers = {
        "reliability": {
            name: {"confidence": mean, "surest": [(0.5, 0.95), (1.0, 0.8)]} for name, mean in means.items()
        },
        "controls": {},
        **{name: {"test_accuracy": 0.8, "test_calibration_error": 0.06} for name in means},
    }
    assert conclusions.conclude_reliability(numbers) == (
        "The generalist is over-confident by 5.0 points (calibration error 6.0%), the ensemble is about as confident as"
        " right (calibration error 6.0%) and the student is under-confident by 10.0 points (calibration error 6.0%)."
    )
    assert conclusions.conclude_surest(numbers).startswith(
        "The generalist is right in 95.0% of the 50% of which it is surest, the ensemble"
    )


def test_a_stopped_trial_is_compared_at_its_own_last_pass():
    trials = [trial(1, 0.1, 0.5, 0.6, 0.7), trial(2, 0.2, 0.55), trial(3, 0.3, 0.4, 0.65)]
    assert measure_gaps(trials) == pytest.approx([0.0, 0.0, 0.0])
    assert measure_gaps([*trials, trial(4, 0.1, 0.45), trial(5, 0.1, 0.5, 0.6, 0.5)]) == pytest.approx(
        [0.0, 0.0, 0.0, 0.1, 0.2]
    )


@pytest.mark.parametrize(
    ("temperatures", "label_weights", "told"),
    [
        ((1, 2, 3, 4, 5, 6, 7, 8), (3, 1, 4, 1.5, 5, 9, 2, 6), "lower temperatures did better."),
        ((8, 7, 6, 5, 4, 3, 2, 1), (1, 2, 3, 4, 5, 6, 7, 8), "higher temperatures did better and lower label weights"),
        ((3, 1, 4, 1.5, 5, 9, 2, 6), (1, 8, 2, 7, 3, 6, 4, 5), "neither of the two shows a clear trend."),
    ],
)
def test_the_search_shows_a_trend_or_none(temperatures, label_weights, told):
    values = [0.9 - 0.01 * index for index in range(8)]
    pairs = zip(temperatures, label_weights, values, strict=True)
    numbers = {
        "search": {"trials": [trial(t, w, 0.1, 0.2, value) for t, w, value in pairs]},
        "student": {"temperature": 2.0, "label_weight": 0.25},
    }
    text = economy.conclude_search(numbers)
    assert text.startswith("Chosen of 8 trials, 0 of them stopped early: temperature 2.00 and label weight 0.25.")
    assert "The worst was 7.0 points behind the best of its pass" in text
    assert told in text
    for places in (temperatures, label_weights):
        test = kendalltau(places, values, method="asymptotic")
        expected = test.statistic if test.pvalue < 0.05 else 0.0
        assert math.isclose(economy._trend(places, values), expected, abs_tol=1e-12)


def test_a_fixed_search_says_so():
    numbers = {"search": {"trials": []}, "student": {"temperature": 2.0, "label_weight": 0.25}}
    assert economy.conclude_search(numbers) == "Fixed by the settings: temperature 2.00 and label weight 0.25."


@pytest.mark.parametrize(
    ("passes", "told"),
    [(3, "80.00% of the tune split right, after 3 passes."), (40, "the last quarter of them brought +0.50 points.")],
)
def test_what_the_last_passes_brought(passes, told):
    assert told in economy.conclude_curves({"convergence": {"passes": passes, "last": 0.80, "before": 0.795}})


def test_size_and_speed_against_the_teacher():
    models = {
        "ensemble": {"weight_bytes": 17_000, "one_ms": 5.0, "batch_ms": 10.0, "batch": 256},
        "student": {"weight_bytes": 1000, "one_ms": 0.5, "batch_ms": 9.8, "batch": 256},
    }
    assert economy.conclude_serving({"teacher": "ensemble", "serving": {"models": models}}) == (
        "Against the ensemble, the student's weights take 1/17 of the space, one example 1/10 of the time, and a batch"
        " of 256 98%."
    )


def test_where_the_time_went():
    stages = [{"name": "data", "seconds": 10.0}, {"name": "student", "seconds": 30.0}]
    numbers = {"stages": stages, "slots_at_work": 0.93, "teacher": "ensemble"}
    assert economy.conclude_time(numbers) == (
        "Most of the 40 s went into stage student (75%); while specialists were trained, their slots were at work 93%"
        " of the time."
    )
    assert economy.conclude_time({**numbers, "teacher": "generalist"}).endswith("(75%).")


def grown(**changes):
    """Numbers of a run of five groups: one kept, one trained, one that failed, and two that nothing is known of."""
    told = {
        "from": "runs/old",
        "new_classes": ["x", "y"],
        "gone_classes": [],
        "examples": {"known": 900, "leaked": 0},
        "prior": "natural",
        "warm": ["generalist", "seeds/001", "seeds/002", "student/student"],
        "passes": 0.5,
        "dissolved_groups": [4],
        "kept": [{"index": 0, "source": 2, "reasons": [], "unseen": ["x"]}],
        "trained": [
            {"index": 1, "source": 0, "reasons": ["its group gained y", "30% of its examples changed"], "unseen": []},
            {"index": 2, "source": 3, "reasons": ["it failed in the old run"], "unseen": []},
        ],
    }
    return {
        "grown": {**told, **changes},
        "data": {"examples": 1000},
        "balance": {"prior": "natural"},
        "skipped": [{"index": 2}],
        "groups": [{"name": name} for name in "abcde"],
    }


def test_what_was_kept_of_another_run():
    assert conclude_kept(grown()) == (
        "Grown from runs/old: 1 of 5 specialists was kept, 3 were trained anew, 1 failed; the generalist, the student"
        " and 2 generalists of other seeds began from the old weights, with 50% of their passes. Of 1,000 examples, 900"
        " were in that run and 100 are new. Classes x and y are new, no class is gone and 1 of the old groups"
        " was dissolved."
    )
    assert [(row["fate"], row["source"], row["why"]) for row in list_kept(grown())] == [
        ("kept", 2, "has not seen x"),
        ("trained", 0, "its group gained y; 30% of its examples changed"),
        ("failed", 3, "it failed in the old run"),
        ("trained", None, "a new group"),
        ("trained", None, "a new group"),
    ]


def test_a_run_that_kept_nothing_says_why():
    numbers = grown(warm=[], kept=[], dissolved_groups=[0, 1, 2], examples={"known": 900, "leaked": 7}, new_classes=[])
    text = conclude_kept({**numbers, "balance": {"prior": "equal"}})
    assert (
        "none of 5 specialists was kept, 4 were trained anew, 1 failed; no network began from the old weights," in text
    )
    assert "because balance.prior was natural there and is equal here." in text
    assert "100 are new; it had learned from 7 of the test examples. No class is new, no class is gone" in text
    assert text.endswith("and 3 of the old groups were dissolved.")
    one = conclude_kept(grown(warm=["seeds/001", "student/labels_only"]))
    assert "; 1 control and 1 generalist of other seeds began" in one
    assert conclude_kept({}) is None
    assert list_kept({}) == []
