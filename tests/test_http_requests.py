"""Requests of `raydistill serve`: what is understood, and the line for what is not."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from raydistill.data.images import ImageForm
from raydistill.data.new_images import NewImages
from raydistill.deployment.answerer import Answerer
from raydistill.deployment.http_requests import (
    BadRequest,
    answer_together,
    check_length,
    describe_answer,
    describe_model,
    read_question,
)

IMAGES = NewImages(ImageForm(2, 1, "crop"), (2, 2), "uint8")


def ask(batch):
    """Log-probabilities that tell which example it was; one that holds 13 fails."""
    if (batch == 13).any():
        raise RuntimeError("unlucky")
    return torch.log_softmax(batch.reshape(len(batch), -1).float(), dim=1)


ANSWERER = Answerer("student", ask, ("a", "b", "c", "d"), (2, 2), "uint8", IMAGES)
ONE = [[1, 2], [3, 4]]


def read(body, kind="application/json", query=None, answerer=ANSWERER):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_question(kind, query or {}, data, answerer)


@pytest.mark.parametrize("body", [[ONE, ONE], {"inputs": [ONE, ONE]}])
def test_examples_come_as_an_array_or_by_name(body):
    question = read(body, "application/json; charset=utf-8")
    assert question.x.dtype == np.uint8
    np.testing.assert_array_equal(question.x, [ONE, ONE])
    assert (question.top, question.log_probs) == (0, False)


def test_options_come_in_the_body_or_the_query():
    question = read({"inputs": [ONE], "top": 3, "log_probs": True})
    assert (question.top, question.log_probs) == (3, True)
    question = read([ONE], query={"top": "2", "log_probs": "true"})
    assert (question.top, question.log_probs) == (2, True)


def test_an_image_is_decoded_as_the_training_was():
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 50], [100, 200]], np.uint8)).save(file, "PNG")
    question = read(file.getvalue(), "image/png", {"top": "1"})
    np.testing.assert_array_equal(question.x, [[[0, 50], [100, 200]]])


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{", 400, "body: is no JSON"),
        (b"[" * 100_000, 400, "body: is no JSON"),
        (b"\xff\xfe", 400, "body: is no JSON"),
        (3, 400, "inputs: missing"),
        ({"input": [ONE]}, 400, "inputs: missing"),
        ({"inputs": [ONE], "tops": 3}, 400, "tops: unknown field; allowed are inputs, top, log_probs"),
        ([], 400, "inputs: shape (0,); give (examples, 2, 2)"),
        (ONE, 400, "inputs: shape (2, 2); give (examples, 2, 2)"),
        ([[[1, 2], [3]]], 400, "inputs: examples differ in shape"),
        ([[["a", "b"], ["c", "d"]]], 400, "inputs: not all are numbers"),
        ([[[None, 1], [1, 1]]], 400, "inputs: not all are numbers"),
        ([[[10**30, 1], [1, 1]]], 400, "inputs: not all are numbers"),
        ([[[True, False], [True, True]]], 400, "inputs: not all are numbers"),
        ([ONE, [[1, 2], [3, 256]]], 400, "inputs: example 1 has NaN, or a number that is no whole one from 0 to 255"),
        (b"[[[NaN, 1], [1, 1]]]", 400, "inputs: example 0 has"),
        ([ONE] * 4097, 413, "inputs: 4,097 examples; give at most 4,096"),
        ({"inputs": [ONE], "top": 5}, 400, "top: 5 is not allowed; give 1 to 4"),
        ({"inputs": [ONE], "top": -1}, 400, "top: -1"),
        ({"inputs": [ONE], "top": True}, 400, "top: 'True'"),
        ({"inputs": [ONE], "top": "9" * 5000}, 400, "top: '999"),
        ({"inputs": [ONE], "log_probs": 2}, 400, "log_probs: '2' is not allowed"),
    ],
)
def test_bad_requests_name_the_field_in_one_line(body, status, told):
    with pytest.raises(BadRequest) as raised:
        read(body)
    assert raised.value.status == status
    assert str(raised.value).startswith(told)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_other_types_are_refused():
    with pytest.raises(BadRequest, match=r"Content-Type: 'text/plain' is not allowed") as raised:
        read(b"1", "text/plain")
    assert raised.value.status == 415
    with pytest.raises(BadRequest, match="image: cannot be decoded") as raised:
        read(b"no image", "image/png")
    assert raised.value.status == 400
    without = Answerer("student", ask, ("a", "b"), (4,), "float32", None)
    with pytest.raises(BadRequest, match=r"takes no images, but arrays of shape \(4\)") as raised:
        read(b"", "image/png", answerer=without)
    assert raised.value.status == 415


@pytest.mark.parametrize(("given", "status"), [(None, 411), ("x", 400), ("-1", 400), ("101", 413), ("9" * 30, 413)])
def test_bodies_without_a_length_or_too_long_are_refused_unread(given, status):
    with pytest.raises(BadRequest) as raised:
        check_length(given, 100)
    assert raised.value.status == status
    assert check_length("100", 100) == 100


def test_questions_that_are_asked_together_have_their_own_answers():
    parts = [np.full((count, 2, 2), count, np.uint8) for count in (1, 3, 2)]
    parts[1][2] = ONE
    for part, answer in zip(parts, answer_together(ANSWERER, parts), strict=True):
        np.testing.assert_allclose(answer, ask(torch.from_numpy(part)))


def test_one_that_fails_hurts_no_other():
    good, bad = np.full((2, 2, 2), 1, np.uint8), np.full((1, 2, 2), 13, np.uint8)
    first, fault, last = answer_together(ANSWERER, [good, bad, good])
    np.testing.assert_allclose(first, ask(torch.from_numpy(good)))
    np.testing.assert_allclose(last, first)
    assert str(fault) == "unlucky"


def test_the_answer_has_what_was_asked_for():
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array([[0.1, 0.2, 0.3, 0.4], [0.0, 0.9, 0.1, 0.0]], dtype=np.float32))
    told = describe_answer(read([ONE, ONE]), log_probs, ANSWERER)
    assert [(entry["class"], round(entry["probability"], 5)) for entry in told["predictions"]] == [
        ("d", 0.4),
        ("b", 0.9),
    ]
    assert all(set(entry) == {"class", "probability"} for entry in told["predictions"])
    told = describe_answer(read({"inputs": [ONE, ONE], "top": 2, "log_probs": True}), log_probs, ANSWERER)
    assert [entry["class"] for entry in told["predictions"][0]["top"]] == ["d", "c"]
    np.testing.assert_allclose(np.exp(told["predictions"][1]["log_probs"]), [0, 0.9, 0.1, 0], rtol=1e-6)
    json.dumps(told, allow_nan=False)
    assert describe_model(ANSWERER)["takes"] == ["application/json", "image/*"]
