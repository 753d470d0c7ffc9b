"""Every model's answers to the test rows, and facts about the models: their size, and what it takes to ask them.

Comes in: the run folder with all other stages finished, the test rows. Goes out: `Answers` and facts by model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import log_softmax

from raydistill.method.teacher import Teachers
from raydistill.networks.models import count_parameters
from raydistill.report.answers import Answers, join_answers, reduce_answers
from raydistill.report.describe import weigh_tests
from raydistill.report.metrics import measure_model
from raydistill.report.serving import measure_serving
from raydistill.stages.context import Context
from raydistill.stages.groups import list_trained
from raydistill.stages.networks import build_student, load_weights, read_repair
from raydistill.stages.roles import STUDENT, list_students, list_teachers, student_teacher
from raydistill.stages.teacher import answer_blocks, load_teachers, split_blocks
from raydistill.training.scoring import predict_logits
from raydistill.training.workers import choose_device

Facts = dict[str, dict[str, Any]]


def answer_test(context: Context, rows: Tensor) -> tuple[dict[str, Answers], Facts, Facts]:
    """Answers of every model to the test rows, facts such as the number of parameters, and what asking them takes."""
    models, facts, serving = answer_teachers(context, rows)
    for name in list_students(context.config):
        models[name], facts[name], told = answer_student(context, name, rows)
        if name == STUDENT:
            serving[name] = told()
    return models, facts, serving


def answer_teachers(context: Context, rows: Tensor) -> tuple[dict[str, Answers], Facts, Facts]:
    """Answers of all teachers, the generalist first, facts about them, and what asking generalist and teacher takes."""
    teachers = load_teachers(context.run, context.config, context.examples)
    others = [name for name in list_teachers(context.config) if name != "generalist"]
    parts: dict[str, list[Answers]] = {name: [] for name in ("generalist", *others)}
    facts = {name: describe_teacher(teachers, name) for name in parts}
    asked, gap, done = 0, 0.0, 0
    for part, block in answer_blocks(teachers, context.examples, rows):
        for name, answers in parts.items():
            answers.append(reduce_answers(block.log_probs[name], context.examples.y[part]))
        if block.active is not None and block.gap is not None:
            asked, gap = asked + int(block.active.sum()), max(gap, float(block.gap.max()))
        done += len(part)
        context.display.update(done / len(rows), "answers to the test examples")
    if "ensemble" in facts:
        facts["ensemble"] |= {"specialists_asked": asked / len(rows), "largest_gap_nats": gap}
    folders = list_folders(context)
    asks: Mapping[str, Callable[[Tensor], Tensor] | None] = {
        "generalist": lambda batch: predict_logits(teachers.generalist, batch),
        "ensemble": teachers.ensemble,
        "seeds": teachers.seeds,
    }
    serving = {}
    for name in dict.fromkeys(("generalist", student_teacher(context.config))):
        ask = asks[name]
        assert ask is not None
        serving[name] = measure_serving(ask, context.examples.x, rows, folders[name])
    return {name: join_answers(answers) for name, answers in parts.items()}, facts, serving


def list_folders(context: Context) -> dict[str, list[Path]]:
    """Folders of the networks of each teacher."""
    run, names = context.run, list_teachers(context.config)
    generalist = run.stage_folder("generalist")
    folders = {"generalist": [generalist]}
    if "ensemble" in names:
        folders["ensemble"] = [generalist, *(run.specialist_folder(index) for index in list_trained(run))]
    if "seeds" in names:
        folders["seeds"] = [generalist, *(run.seed_folder(index) for index in range(1, context.config.teacher.seeds))]
    return folders


def describe_teacher(teachers: Teachers, name: str) -> dict[str, Any]:
    """Number of parameters of a teacher, all its networks together, and how many networks those are."""
    size = count_parameters(teachers.generalist)
    if name == "ensemble" and teachers.ensemble is not None:
        specialists = teachers.ensemble.specialists
        return {
            "parameters": count_parameters(teachers.generalist, *specialists),
            "specialists": len(specialists),
        }
    if name == "seeds" and teachers.seeds is not None:
        members = teachers.seeds.members
        return {"parameters": sum(map(count_parameters, members)), "members": len(members)}
    return {"parameters": size}


def answer_student(
    context: Context, name: str, rows: Tensor
) -> tuple[Answers, dict[str, Any], Callable[[], dict[str, Any]]]:
    """Answers of the student or a control, facts about it, and a function that measures what asking it takes.

    The facts of one that was repaired tell how good it was before.
    """
    run, examples = context.run, context.examples
    folder = run.student_folder(name)
    model = load_weights(build_student(run, context.config, examples), folder).to(choose_device())
    repair = read_repair(folder)
    answers, unrepaired = [], []
    for part in split_blocks(rows, examples):
        logits, labels = predict_logits(model, examples.x, part), examples.y[part]
        answers.append(reduce_answers(log_softmax(logits, dim=1), labels))
        if repair is not None:
            unrepaired.append(reduce_answers(log_softmax(logits - spread_offsets(repair, logits), dim=1), labels))
    facts: dict[str, Any] = {"parameters": count_parameters(model)}
    if repair is not None:
        before = join_answers(unrepaired)
        facts["repair"] = {
            "classes": [examples.class_names[index] for index in repair["classes"]],
            "offsets": repair["offsets"],
            "unrepaired": measure_model(before, examples.class_names, weigh_tests(context, before.labels)),
        }
    ask: Callable[[Tensor], Tensor] = lambda batch: predict_logits(model, batch)  # noqa: E731
    return join_answers(answers), facts, lambda: measure_serving(ask, examples.x, rows, [folder])


def spread_offsets(repair: dict[str, Any], logits: Tensor) -> Tensor:
    """What a repair added to each class's logit: (K,) nats, 0 where it changed nothing. logits: (N, K)."""
    offsets = logits.new_zeros(logits.shape[1])
    offsets[repair["classes"]] = logits.new_tensor(repair["offsets"])
    return offsets
