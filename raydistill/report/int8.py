"""The student in 8-bit integers, for the report (`report.int8`): what it costs on the test rows.

Comes in: the run folder, the test rows, the student's answers to them. Goes out: figures for report.json, a sentence.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import Tensor
from torch.nn.functional import log_softmax

from raydistill.deployment.quantise import choose_calibration, quantise
from raydistill.networks.models import count_parameters
from raydistill.report.answers import Answers, join_answers, reduce_answers
from raydistill.report.describe import weigh_tests
from raydistill.report.metrics import compare_models, measure_model
from raydistill.report.shares import judged_accuracy
from raydistill.report.verdict import format_p
from raydistill.stages.context import Context
from raydistill.stages.networks import build_student, load_weights
from raydistill.stages.roles import STUDENT
from raydistill.stages.teacher import split_blocks


def add_int8(context: Context, rows: Tensor, student: Answers, numbers: dict[str, Any]) -> None:
    """Add figures and a sentence to the numbers of report.json, where the settings ask for them."""
    if context.config.report.int8:
        numbers["int8"] = measure_int8(context, rows, student)
        numbers["verdict"]["sentences"].insert(-1, describe_int8(numbers))


def measure_int8(context: Context, rows: Tensor, student: Answers) -> dict[str, Any]:
    """Quantise the student on fit rows, and ask it about the test rows.

    Figures as of every model; bytes of its ONNX file and of the same in float32; its comparison with the student.
    Raises ModelError where the student cannot be quantised.
    """
    run, examples = context.run, context.examples
    model = load_weights(build_student(run, context.config, examples), run.student_folder(STUDENT))
    small = quantise(model, choose_calibration(run, examples))
    answers = join_answers(
        [
            reduce_answers(log_softmax(small.answer(examples.x[part]).float(), dim=1), examples.y[part])
            for part in split_blocks(rows, examples)
        ]
    )
    weights = weigh_tests(context, answers.labels)
    return {
        **measure_model(answers, examples.class_names, weights),
        "parameters": count_parameters(model),
        "file_bytes": len(small.data),
        "float32_file_bytes": small.full_bytes,
        "against_student": asdict(compare_models(answers.correct, student.correct, weights)),
    }


def describe_int8(numbers: dict[str, Any]) -> str:
    """What 8-bit integers cost and save, in a sentence."""
    int8 = numbers["int8"]
    return (
        f"In 8-bit integers the student is right in {judged_accuracy(int8):.2%} instead of"
        f" {judged_accuracy(numbers[STUDENT]):.2%} ({format_p(int8['against_student'])}), and its file has"
        f" {int8['file_bytes']:,} bytes instead of {int8['float32_file_bytes']:,}."
    )
