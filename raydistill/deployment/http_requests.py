"""What `raydistill serve` is asked, and what it answers; knows nothing of servers.

Comes in: the type, query and body of a request. Goes out: a `Question`, whose examples fit the model, or a `BadRequest`
with a status and a line that names the field; and the answer as JSON.

    POST /predict   application/json: {"inputs": [example, …], "top": 3, "log_probs": true}, or [example, …] alone
                    image/*: the bytes of an image file; top and log_probs in the query: /predict?top=3
    answer          {"model": "student", "predictions": [{"class": "7", "probability": 0.98, "top": [{"class": …,
                    "probability": …}, …], "log_probs": [K numbers, in the order of the classes]}, …]}
    error           {"error": "inputs: …"}, with status 400, 404, 405, 411, 413 or 415

top and log_probs are there where they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raydistill.data.images import CorruptRecord
from raydistill.deployment.answerer import Answerer, convert_rows
from raydistill.deployment.tables import rank_classes
from raydistill.errors import DataError, describe_in_line
from raydistill.storage.files import Array

MOST_EXAMPLES = 4096  # of a request
ASKED = 1024  # examples at once
FIELDS = ("inputs", "top", "log_probs")


class BadRequest(Exception):
    """A request that cannot be answered. status: of HTTP, 400 to 499; the message is one line for whoever asked."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Question:
    """x: (n, ...) in the model's type. top: classes to name for each, 0 for the first alone. log_probs: all of them."""

    x: Array
    top: int
    log_probs: bool


def check_length(given: str | None, most: int) -> int:
    """Bytes of a body, as the header Content-Length says. Raises BadRequest for none, and for more than `most`."""
    if given is None:
        raise BadRequest(411, "Content-Length: missing; give the length of the body")
    if not given.isdecimal():
        raise BadRequest(400, f"Content-Length: {given[:20]!r} is no number of bytes")
    if int(given) > most:
        raise BadRequest(413, f"body: {int(given):,} bytes; give at most {most:,}, in several requests")
    return int(given)


def read_question(kind: str, query: Mapping[str, str], body: bytes, answerer: Answerer) -> Question:
    """Examples of a body. kind: its media type. Raises BadRequest."""
    kind = kind.partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        top, log_probs = read_query(query)
        x = read_image(body, answerer)
    elif kind == "application/json":
        given = read_body(body)
        top, log_probs = read_query({**query, **{name: given[name] for name in FIELDS[1:] if name in given}})
        x = read_inputs(given["inputs"], answerer)
    else:
        raise BadRequest(415, f"Content-Type: {kind[:60]!r} is not allowed; give application/json or image/*")
    if not 0 <= top <= len(answerer.class_names):
        raise BadRequest(400, f"top: {top} is not allowed; give 1 to {len(answerer.class_names)}")
    return Question(x, top, log_probs)


def read_query(given: Mapping[str, Any]) -> tuple[int, bool]:
    """top, 0 where it is left out, and log_probs."""
    top, log_probs = given.get("top", 0), given.get("log_probs", False)
    if isinstance(top, str) and top.isdecimal() and len(top) < 10:
        top = int(top)
    if not isinstance(top, int) or isinstance(top, bool):
        raise BadRequest(400, f"top: {str(top)[:40]!r} is not allowed; give a number of classes")
    if isinstance(log_probs, str):
        log_probs = {"true": True, "1": True, "false": False, "0": False}.get(log_probs.lower(), log_probs)
    if not isinstance(log_probs, bool):
        raise BadRequest(400, f"log_probs: {str(log_probs)[:40]!r} is not allowed; give true or false")
    return top, log_probs


def read_body(body: bytes) -> dict[str, Any]:
    """A JSON body as a mapping that has inputs."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(400, f"body: is no JSON ({describe_in_line(error)[:100]})") from None
    if isinstance(given, list):
        return {"inputs": given}
    if not isinstance(given, dict) or "inputs" not in given:
        raise BadRequest(400, 'inputs: missing; give {"inputs": [example, ...]}, or [example, ...]')
    unknown = sorted(set(given) - set(FIELDS))
    if unknown:
        raise BadRequest(400, f"{unknown[0][:40]}: unknown field; allowed are {', '.join(FIELDS)}")
    return given


def read_inputs(inputs: Any, answerer: Answerer) -> Array:
    """Examples (n, ...) in the model's type."""
    shape = ", ".join(map(str, answerer.input_shape))
    try:
        x = np.array(inputs)
    except (ValueError, OverflowError, RecursionError):
        raise BadRequest(400, f"inputs: examples differ in shape; give (examples, {shape})") from None
    if x.shape[1:] != answerer.input_shape or x.size == 0:
        raise BadRequest(400, f"inputs: shape {x.shape}; give (examples, {shape})")
    if len(x) > MOST_EXAMPLES:
        raise BadRequest(413, f"inputs: {len(x):,} examples; give at most {MOST_EXAMPLES:,}")
    if x.dtype.kind not in "iuf":
        raise BadRequest(400, "inputs: not all are numbers; give numbers of at most 64 bits")
    converted, problems = convert_rows(x, answerer.dtype)
    if problems:
        row, reason = next(iter(problems.items()))
        raise BadRequest(400, f"inputs: example {row} {reason}")
    return converted


def read_image(body: bytes, answerer: Answerer) -> Array:
    """One example (1, ...) of the bytes of an image file."""
    try:
        return answerer.take_images().decode(body)[None]
    except CorruptRecord as error:
        raise BadRequest(400, f"image: cannot be decoded ({str(error)[:200]})") from None
    except DataError as error:
        raise BadRequest(415, str(error)) from None


def answer_together(answerer: Answerer, batch: Sequence[Array]) -> list[Array | Exception]:
    """Log-probabilities (n, K) for each of several questions' examples, asked at once.

    Where that fails, each is asked alone, so that the others have their answers; its error stands for the one at fault.
    """
    try:
        return list(_ask(answerer, batch))
    except Exception:  # whatever a network raises
        return [_ask_alone(answerer, x) for x in batch]


def _ask(answerer: Answerer, batch: Sequence[Array]) -> list[Array]:
    x = np.concatenate(batch)
    answers = np.concatenate([answerer.answer(x[start : start + ASKED]) for start in range(0, len(x), ASKED)])
    return np.split(answers, np.cumsum([len(part) for part in batch])[:-1])


def _ask_alone(answerer: Answerer, x: Array) -> Array | Exception:
    try:
        return _ask(answerer, [x])[0]
    except Exception as error:  # whatever a network raises
        return error


def describe_answer(question: Question, log_probs: Array, answerer: Answerer) -> dict[str, Any]:
    """The answer as JSON. log_probs: (n, K)."""
    order, probability = rank_classes(log_probs, max(1, question.top))
    predictions = []
    for row in range(len(log_probs)):
        named = [
            {"class": answerer.class_names[index], "probability": float(value)}
            for index, value in zip(order[row], probability[row], strict=True)
        ]
        prediction: dict[str, Any] = dict(named[0])
        if question.top:
            prediction["top"] = named
        if question.log_probs:
            prediction["log_probs"] = [float(value) for value in np.maximum(log_probs[row], -1e30)]  # JSON has no inf
        predictions.append(prediction)
    return {"model": answerer.model, "predictions": predictions}


def describe_model(answerer: Answerer) -> dict[str, Any]:
    """What GET / tells."""
    return {
        "model": answerer.model,
        "input_shape": list(answerer.input_shape),
        "dtype": answerer.dtype,
        "classes": list(answerer.class_names),
        "takes": ["application/json", *(["image/*"] if not isinstance(answerer.images, str | None) else [])],
        "paths": {"GET /": "this", "GET /healthz": "health", "POST /predict": "predictions"},
    }
