"""What a finished run gives to Python: the student, and the ensemble that taught it.

Comes in: a run folder. Goes out: something to call with a batch in the type and shape of the training data.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from raydistill.data.arrays import open_examples
from raydistill.errors import RunFolderError
from raydistill.method.teacher import Ensemble
from raydistill.stages.networks import build_student, is_trained, load_weights
from raydistill.stages.roles import STUDENT, has_specialists, list_students, student_teacher
from raydistill.stages.teacher import load_ensemble_from, load_teachers
from raydistill.storage.run_folder import RunFolder


def load_student(run_dir: Path | str, name: str = STUDENT) -> nn.Module:
    """The student of a finished run, in evaluation mode: batch (N, ...) in the stored type -> logits (N, K).

    name: 'student', or a control: 'labels_only', 'generalist_targets'. Raises RunFolderError if the run has no such
    name, or it is not finished.
    """
    run = RunFolder(run_dir)
    config = run.read_config()
    if name not in list_students(config):
        raise RunFolderError(f"name: {name!r} is not allowed; give one of {', '.join(list_students(config))}")
    folder = run.student_folder(name)
    if not is_trained(folder):
        raise RunFolderError(
            f"run_dir: {run.location!r} has no finished {name!r}; raydistill status {run.location} tells how far it is"
        )
    return load_weights(build_student(run, config, open_examples(run)), folder)


def load_ensemble(run_dir: Path | str) -> Ensemble:
    """Generalist and specialists of a run: batch (N, ...) -> log-probabilities (N, K) by equation 5.

    Raises RunFolderError if the specialists are not finished.
    """
    run = RunFolder(run_dir)
    config = run.read_config()
    if not has_specialists(config):
        raise RunFolderError(f"run_dir: {run.location!r} has no specialists; load its teacher with load_teacher")
    if "specialists" not in run.read_manifest()["stages"]:
        raise RunFolderError(
            f"run_dir: {run.location!r} has no finished specialists;"
            f" raydistill status {run.location} tells how far it is"
        )
    return load_ensemble_from(run, config, open_examples(run))


def load_teacher(run_dir: Path | str) -> Callable[[Tensor], Tensor]:
    """The student's teacher of any kind: batch (N, ...) in the stored type -> log-probabilities (N, K).

    Raises RunFolderError if its networks are not finished.
    """
    run = RunFolder(run_dir)
    config = run.read_config()
    if "targets" not in run.read_manifest()["stages"]:
        raise RunFolderError(
            f"run_dir: {run.location!r} has no finished teacher; raydistill status {run.location} tells how far it is"
        )
    teachers, name = load_teachers(run, config, open_examples(run)), student_teacher(config)
    return lambda batch: teachers.answer(batch, torch.arange(len(batch))).log_probs[name]
