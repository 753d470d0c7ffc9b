"""What the report shows, before it is drawn: calibration, changes, matrices, small pictures, the timeline, serving."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_array
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix

from raydistill.data.arrays import Examples
from raydistill.report.answers import Answers, reduce_answers
from raydistill.report.calibration import measure_reliability
from raydistill.report.changes import count_changes, count_errors_inside, list_confusions, pick_changes
from raydistill.report.confusions import (
    choose_zoomed,
    count_between,
    count_errors,
    draw_cells,
    measure_opacity,
    order_classes,
    place_boxes,
)
from raydistill.report.gallery import sample_groups, show_changes
from raydistill.report.headline import format_bytes, write_headline
from raydistill.report.matrices import show_whole, zoom, zoom_groups
from raydistill.report.page import explain_letter
from raydistill.report.serving import measure_serving
from raydistill.report.thumbnails import are_images, encode_images
from raydistill.report.timeline import Bar, build_timeline, measure_use, share_slots


def draw(examples=700, classes=24, seed=1, right=2.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (examples,), generator=torch.Generator().manual_seed(0))
    logits = 2 * torch.randn(examples, classes, generator=generator)
    logits[torch.arange(examples), labels] += right
    return reduce_answers(torch.log_softmax(logits, 1), labels)


def answers_of(labels, predicted):
    labels, predicted = torch.as_tensor(labels), torch.as_tensor(predicted)
    ones = torch.ones(len(labels), dtype=torch.float64)
    return Answers(labels, predicted, ones, -ones, torch.zeros_like(labels))


def open_png(uri):
    assert uri.startswith("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


# calibration


def test_reliability_agrees_with_scikit_learn():
    answers = draw()
    found = measure_reliability(answers)
    accuracy, confidence = calibration_curve(answers.correct.numpy(), answers.confidence.numpy(), n_bins=15)
    assert [row["accuracy"] for row in found["bins"]] == pytest.approx(list(accuracy))
    assert [row["confidence"] for row in found["bins"]] == pytest.approx(list(confidence))
    assert sum(row["examples"] for row in found["bins"]) == 700
    assert found["confidence"] == pytest.approx(float(answers.confidence.mean()))


def test_the_surest_answers_by_hand():
    answers = draw()
    surest = dict(measure_reliability(answers)["surest"])
    assert surest[1.0] == pytest.approx(float(answers.correct.double().mean()))
    best = answers.confidence.argsort(descending=True)[:70]
    assert surest[0.1] == pytest.approx(float(answers.correct[best].double().mean()))
    assert [share for share, _ in measure_reliability(draw(examples=3))["surest"]] == pytest.approx([1 / 3, 2 / 3, 1])


# what was mended and broken


def test_changes_by_group_by_hand():
    members = np.array([[True, True, False], [False, True, True]])
    before, after = answers_of([0, 1, 1, 2, 2], [1, 1, 0, 2, 0]), answers_of([0, 1, 1, 2, 2], [0, 0, 1, 1, 0])
    assert count_changes(members, before, after) == [{"fixed": 2, "broken": 1}, {"fixed": 1, "broken": 2}]
    assert count_errors_inside(members, before) == (2, 1)
    assert count_errors_inside(np.zeros((1, 3), dtype=bool), before) == (0, 3)


def test_drawn_changes_are_changes_of_many_classes():
    before, after = draw(seed=1, right=1.0), draw(seed=2, right=3.0)
    fixed, broken = pick_changes(before, after, 12, seed=0)
    assert len(fixed) == len(set(fixed.tolist())) == 12
    assert (after.correct & ~before.correct)[fixed].all()
    assert (before.correct & ~after.correct)[broken].all()
    assert len(set(before.labels[fixed].tolist())) == 12
    assert torch.equal(pick_changes(before, after, 12, seed=0)[0], fixed)
    assert not torch.equal(pick_changes(before, after, 12, seed=1)[0], fixed)
    assert len(pick_changes(before, before, 12, seed=0)[0]) == 0


def test_most_frequent_confusions_agree_with_the_matrix():
    models = {"generalist": draw(seed=1), "student": draw(seed=2)}
    inside = torch.arange(24) % 2 == 0
    for mask in (None, inside):
        matrices = {
            name: confusion_matrix(answers.labels, answers.predicted, labels=range(24))
            for name, answers in models.items()
        }
        for matrix in matrices.values():
            np.fill_diagonal(matrix, 0)
            if mask is not None:
                matrix[~inside.numpy()] = 0
                matrix[:, ~inside.numpy()] = 0
        rows = list_confusions(models, 5, mask)
        assert len(rows) == 5
        assert [row["counts"]["generalist"] for row in rows] == sorted(matrices["generalist"].ravel())[::-1][:5]
        for row in rows:
            for name, count in row["counts"].items():
                assert matrices[name][row["true"], row["said"]] == count
    assert list_confusions({"generalist": answers_of([0, 1], [0, 0])}, 5) == []  # a single error is no pattern


# matrices


def test_classes_come_in_group_order():
    members = np.array([[True, False, True, True, False], [False, True, False, True, False]])
    affinity = np.zeros((5, 5))
    affinity[3, 1] = affinity[1, 3] = 5.0  # class 3 is in both groups, and confused with class 1
    affinity[0, 2] = affinity[2, 0] = 1.0
    for given in (affinity, csr_array(affinity)):
        order, ends = order_classes(members, given)
        assert order.tolist() == [0, 2, 1, 3, 4]
        assert ends == [2, 4]


def test_errors_are_the_confusion_matrix_in_order_without_its_diagonal():
    answers = draw()
    order = np.random.default_rng(2).permutation(24)
    expected = confusion_matrix(answers.labels, answers.predicted, labels=order)
    np.fill_diagonal(expected, 0)
    np.testing.assert_array_equal(count_errors(answers, order), expected)
    chosen = order[[3, 7, 11]]
    np.testing.assert_array_equal(count_between(answers, chosen, 24), expected[np.ix_([3, 7, 11], [3, 7, 11])])


def test_many_classes_share_cells():
    answers = draw(classes=25)
    whole = count_errors(answers, np.arange(25))
    shared = count_errors(answers, np.arange(25), most=7)  # blocks of 4 classes
    expected = [[whole[i : i + 4, j : j + 4].sum() for j in range(0, 25, 4)] for i in range(0, 25, 4)]
    np.testing.assert_array_equal(shared, expected)
    assert place_boxes([8, 8, 25], 25, 7) == [
        {"start": 0.0, "size": 2.0},
        {"start": 2.0, "size": 0.0},
        {"start": 2.0, "size": 4.25},
    ]


def test_opacity_grows_with_the_logarithm_of_the_errors():
    opacity = measure_opacity(np.array([[0, 1, 10, 100]]), 100.0)
    assert opacity[0] == pytest.approx([0.0, 0.3, 0.65, 1.0])
    picture = open_png(draw_cells(np.array([[0, 1], [10, 100]]), 100.0))
    np.testing.assert_array_equal(np.asarray(picture)[..., 1], np.round(255 * np.array([[0, 0.3], [0.65, 1.0]])))


@pytest.mark.parametrize(("classes", "groups"), [(10, 3), (523, 16), (3000, 90)])
def test_matrices_of_few_and_many_classes_stay_small(classes, groups):
    models = {name: draw(1500, classes, seed) for seed, name in enumerate(("generalist", "ensemble", "student"))}
    members = np.arange(classes) * groups // classes == np.arange(groups)[:, None]
    names = [f"class {index} <with a long name>" for index in range(classes)]
    whole = show_whole(models, np.arange(classes), np.cumsum(members.sum(axis=1)).tolist())
    assert whole["cells"] * whole["classes_a_cell"] >= classes
    assert whole["cells"] <= 260
    assert len(whole["boxes"]) == groups
    zooms = zoom_groups(models, members, np.arange(classes), names)
    assert sum(found is not None for found in zooms) == min(groups, 60)
    assert len(json.dumps(whole)) + len(json.dumps(zooms)) < 1_500_000
    for found in filter(None, zooms):
        assert found["classes"] == min(found["of"], 18)
        assert max(map(len, found["labels"])) <= 14


def test_a_zoom_shows_the_worst_classes_and_counts_all():
    labels = [0] * 6 + [5] * 6 + [9] * 3
    models = {
        "generalist": answers_of(labels, [5] * 6 + [0] * 5 + [5] + [0, 1, 2]),
        "student": answers_of(labels, labels),
    }
    order, members = np.arange(40), np.arange(40) < 30
    assert choose_zoomed(models, members, order, 2).tolist() == [0, 5]
    found = zoom(models, members, order, [str(index) for index in range(40)])
    assert found["classes"] == 18
    assert found["models"]["generalist"]["errors"] == 14
    assert found["models"]["student"] == {"errors": 0, "cells": []}
    assert found["pairs"][0] == {"true": "0", "said": "5", "counts": {"generalist": 6, "student": 0}}


# small pictures


@pytest.mark.parametrize(
    ("shape", "size", "mode"),
    [
        ((8, 8), (8, 8), "L"),
        ((100, 50), (32, 64), "L"),
        ((3, 20, 30), (30, 20), "RGB"),
        ((20, 30, 3), (30, 20), "RGB"),
        ((20, 30, 1), (30, 20), "L"),
        ((7, 20, 30), (30, 20), "L"),
        ((20, 30, 4), (30, 20), "RGB"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int32])
def test_images_of_all_shapes_become_pictures(shape, size, mode, dtype):
    generator = torch.Generator().manual_seed(0)
    x = (100 * torch.rand((3, *shape), generator=generator)).to(dtype)
    assert are_images(shape)
    for uri in encode_images(x, 64):
        picture = open_png(uri)
        assert picture.size == size
        assert picture.convert(mode).getextrema()


@pytest.mark.parametrize("shape", [(784,), (3, 100), (2, 3, 4, 5), (1, 2, 50)])
def test_other_shapes_are_no_images(shape):
    assert not are_images(shape)


def test_brightness_spans_the_values():
    x = torch.tensor([[-1.0, 0.0], [1.0, float("nan")]]).repeat(1, 2, 2)
    x = torch.nan_to_num(x, nan=3.0)
    picture = np.asarray(open_png(encode_images(x, 64)[0]))
    assert (picture.min(), picture.max()) == (0, 255)
    assert picture[0, 1] == 64  # (0 - -1) / 4
    dark = np.asarray(open_png(encode_images(torch.full((1, 4, 4), 100, dtype=torch.uint8), 64)[0]))
    assert (dark == 100).all()  # bytes keep their brightness


def test_examples_and_samples_show_the_right_rows():
    x = torch.arange(6, dtype=torch.uint8)[:, None, None].expand(6, 8, 8) * 40
    examples = Examples(x, torch.tensor([0, 0, 1, 1, 2, 2]), ("zero", "one", "two"))
    rows = torch.tensor([1, 2, 4])
    models = {"generalist": answers_of([0, 1, 2], [0, 2, 0]), "student": answers_of([0, 1, 2], [1, 1, 0])}
    changes = show_changes(examples, rows, models, "student", 0)
    (fixed,), (broken,) = changes["fixed"], changes["broken"]
    assert (fixed["row"], fixed["true"]) == (2, "one")
    assert fixed["answers"]["generalist"] == {"said": "two", "confidence": 1.0, "right": False}
    assert np.asarray(open_png(fixed["picture"]))[0, 0] == 80
    assert (broken["row"], broken["answers"]["student"]["said"]) == (1, "one")
    members = np.array([[True, True, False], [False, True, True]])
    samples = sample_groups(examples, rows, models["generalist"].labels, members)
    assert [[sample["name"] for sample in group] for group in samples] == [["zero", "one"], ["one", "two"]]
    assert np.asarray(open_png(samples[1][1]["picture"]))[0, 0] == 160


def test_examples_that_are_no_images_show_their_values():
    examples = Examples(torch.arange(12.0).view(2, 6), torch.tensor([0, 1]), ("a", "b"))
    models = {"generalist": answers_of([0, 1], [1, 1]), "student": answers_of([0, 1], [0, 1])}
    changes = show_changes(examples, torch.tensor([0, 1]), models, "student", 0)
    assert changes["broken"] == []
    assert changes["fixed"][0]["picture"] is None
    assert changes["fixed"][0]["values"] == [0.0, 1.0, 2.0, 3.0]
    assert sample_groups(examples, torch.tensor([0, 1]), torch.tensor([0, 1]), np.eye(2, dtype=bool)) == [[], []]


# the timeline


def job(name, worker, started, seconds):
    return {"job": name, "worker": worker, "started": started, "seconds": seconds}


def test_jobs_share_the_slots_of_their_machines():
    jobs = [
        job("specialist 000", "east:1", 100.0, 10.0),
        job("specialist 001", "east:2", 101.0, 4.0),
        job("specialist 002", "west:7", 100.0, 3.0),
        job("specialist 003", "east:9", 106.0, 5.0),  # another process, in the slot that is free
    ]
    lanes = {bar.name: bar.lane for bar in share_slots([(told, "ensemble") for told in jobs])}
    assert lanes == {
        "specialist 000": "east · 1",
        "specialist 001": "east · 2",
        "specialist 002": "west · 1",
        "specialist 003": "east · 2",
    }


def test_long_pauses_are_cut_out():
    bars = [
        Bar("driver", "data", "stage", 1000.0, 10.0),
        Bar("vm · 2", "a", "ensemble", 1010.0, 40.0),
        Bar("vm · 10", "b", "ensemble", 1012.0, 20.0),
        Bar("driver", "report", "stage", 90_000.0, 50.0),  # the next day
    ]
    timeline = build_timeline(bars)
    assert timeline.lanes == ("driver", "vm · 2", "vm · 10")
    (pause,) = timeline.pauses
    assert pause.seconds == 90_000 - 1050
    assert (pause.start, pause.shown) == (50.0, 2.0)
    report = timeline.bars[-1]
    assert (report.name, report.start, timeline.span) == ("report", 52.0, 102.0)
    assert measure_use(timeline, "ensemble") == pytest.approx(60 / 80)
    assert measure_use(timeline, "seeds") is None
    assert build_timeline([]).bars == ()


# the rest


def test_serving_counts_bytes_and_asks_for_one_and_for_many(tmp_path):
    asked = []
    for name, size in (("a", 10), ("b", 20)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(b"0" * size)

    def model(batch):
        asked.append(len(batch))
        return batch

    found = measure_serving(model, torch.zeros(500, 3), torch.arange(300), [tmp_path / "a", tmp_path / "b"])
    assert set(asked) == {1, 256}
    assert (found["weight_bytes"], found["batch"]) == (30, 256)
    assert 0 < found["one_ms"] < 1000


@pytest.mark.parametrize(
    ("teacher", "difference", "p", "kept", "told"),
    [
        ("ensemble", 0.01, 0.001, 0.46, "The specialists paid, and the student kept 46% of the gain"),
        ("ensemble", 0.01, 0.001, 1.2, "The specialists paid, and the student kept the whole gain"),
        ("ensemble", -0.01, 0.001, None, "The specialists did harm"),
        ("seeds", 0.01, 0.5, None, "The ensemble made no significant difference"),
        ("generalist", 0.0, 1.0, 0.5, "The student kept 50% of the lead that its teacher has over labels alone"),
        ("generalist", 0.0, 1.0, None, "The teacher has no lead over labels alone"),
    ],
)
def test_the_headline(teacher, difference, p, kept, told):
    test = {"difference": difference, "p_value": p}
    numbers = {
        "teacher": teacher,
        "verdict": {"student_kept": kept},
        "significance": {f"{teacher}_vs_generalist": test},
        "balance": {"prior": "natural"},
    }
    assert write_headline(numbers) == told
    for prior, measure in (("equal", "balanced accuracy"), ("sqrt", "weighted accuracy")):
        numbers["balance"]["prior"] = prior
        assert write_headline(numbers) == f"{told}, by {measure}"


def test_sizes_and_letters_are_told_in_words():
    assert [format_bytes(size) for size in (12, 357_000, 6_080_000, 2.5e9)] == ["12 B", "357 kB", "6.08 MB", "2.5 GB"]
    assert explain_letter("ό") == "greek small letter omicron with tonos"
    assert explain_letter("a") == explain_letter("cat") == explain_letter("") == ""
