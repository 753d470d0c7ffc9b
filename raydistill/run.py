"""A run from Python, and from a notebook: the same pipeline, settings and run folder as the command line's.

    run = raydistill.Run((x, y), model="mlp", student="mlp", run_dir="runs/mine", specialists={"groups": 8})
    print(run.plan())
    run.fit()
    run.report, run.student, run.predict(x), run.export("onnx")

Comes in: data of many kinds (data/objects.py) and settings. Goes out: what the run folder holds. What a call starts it
ends, Ray included, and what it changes of the process it gives back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydistill.arguments import ModelLike, gather_settings, to_plain
from raydistill.errors import ConfigError, DataError, RunFolderError
from raydistill.results import Plan, Report
from raydistill.settings.config import Config, build_config
from raydistill.storage.files import Array
from raydistill.storage.job import is_uri
from raydistill.storage.run_folder import STAGES, RunFolder
from raydistill.surroundings import kept_surroundings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raydistill.data.arrays import Examples
    from raydistill.display import Display

GIVEN = "given"
PREDICT_ROWS = 4096
MODELS = ("student", "teacher")


class Run:
    """One run: data, settings, and the folder that holds all of its results."""

    def __init__(
        self,
        data: Any,
        *,
        run_dir: Path | str,
        model: ModelLike | None = None,
        student: Any = None,
        on_change: str = "refuse",
        start_from: Path | str | None = None,
        verbose: bool = False,
        display: Display | None = None,
        **settings: Any,
    ) -> None:
        """Check the settings. Nothing is read, written or started yet.

        data: what `--data` takes, such as 'digits' or 'npz:PATH'; arrays (x, y) or (x_train, y_train, x_test, y_test);
        a dict of these by name; a torch Dataset of pairs, or (train, test); a Ray Dataset with columns x and y; a
        pandas or pyarrow table with a column 'label'. x: (N, ...) numbers, y: (N,) numbers from 0 or text.
        run_dir: folder of the run, or a URI; the same call goes on with what it holds.
        model, student: mlp, cnn, 'package.module:function' or that function; student may also be its whole section.
        on_change, start_from, verbose: as the flags of `raydistill run`. display: where progress is shown; left out:
        on the terminal, or in the notebook. settings: sections by name, as dicts or objects, and seed.
        Raises ConfigError or DataError, a line that names the setting, what is allowed and the remedy.
        """
        self._data, self._display = data, display
        self._on_change, self._start_from, self._verbose = on_change, start_from, verbose
        if on_change not in ("refuse", "redo"):
            raise ConfigError(f"on_change: {on_change!r} is not allowed; give refuse or redo")
        self._values = gather_settings(
            settings, data=data if isinstance(data, str) else GIVEN, run_dir=run_dir, model=model, student=student
        )
        self._checked = build_config(self._values)
        self.folder = RunFolder(self._checked.run_dir)
        if not isinstance(data, str):
            self._check_data()

    @classmethod
    def open(cls, run_dir: Path | str, **changes: Any) -> Run:
        """A run that is there, with its own settings: for its report and its student, or to go on with `fit`.

        changes: as the constructor's; of a section, only what is named changes. Raises RunFolderError if there is none.
        """
        config = RunFolder(run_dir).read_config()
        settings = config.model_dump(exclude={"data", "run_dir", "cluster", "tracking"})
        for name, value in changes.items():
            own = settings.get(name)
            settings[name] = {**own, **to_plain(value)} if isinstance(own, dict) else value
        return cls(config.data, run_dir=run_dir, **settings)

    @property
    def config(self) -> Config:
        """All settings. Data that came as Python's objects are written to disk for it, once.

        Raises DataError for data that cannot be used.
        """
        if isinstance(self._data, str):
            return self._checked
        return self._checked.model_copy(update={"data": self._given})

    def plan(self) -> Plan:
        """Train the generalist and find the groups, or read them; and say what specialists could gain at most."""
        return Plan(self._launch("groups"))

    def fit(self, until: str = "report") -> Run:
        """Run the pipeline, or go on with it; `until`: its last stage. Returns itself."""
        self._launch(until)
        return self

    @property
    def report(self) -> Report:
        """Figures, verdict and page. Raises RunFolderError before `fit`."""
        return Report(self.folder)

    @cached_property
    def student(self) -> nn.Module:
        """The student, in evaluation mode: batch (N, ...) in the stored type -> logits (N, K). Errors as report's."""
        from raydistill.deployment.loading import load_student

        return load_student(self.folder.location)

    @cached_property
    def teacher(self) -> Callable[[Tensor], Tensor]:
        """What taught the student: batch (N, ...) in the stored type -> log-probabilities (N, K)."""
        from raydistill.deployment.loading import load_teacher

        return load_teacher(self.folder.location)

    @property
    def classes(self) -> Array:
        """(K,): the classes as labels were given: text, or numbers where they have no names."""
        import numpy as np

        from raydistill.data.stored import read_labels_kind

        names, data = self._open_examples().class_names, self.folder.read_manifest()["settings"]["data"]
        kind = read_labels_kind(Path(data.removeprefix("arrays:"))) if data.startswith("arrays:") else None
        numbers = kind == "numbers" or (kind is None and names == tuple(map(str, range(len(names)))))
        return np.arange(len(names)) if numbers else np.array(names)

    def predict_proba(self, x: Any, model: str = "student") -> Array:
        """Probabilities (N, K), float32. x: (N, ...) of the training data's shape. model: student or teacher."""
        import numpy as np
        import torch

        if model not in MODELS:
            raise ConfigError(f"model: {model!r} is not allowed; give {' or '.join(MODELS)}")
        answer = self.teacher if model == "teacher" else self.student
        parts = []
        with torch.inference_mode():
            for part in torch.from_numpy(self._to_batch(x)).split(PREDICT_ROWS):
                parts.append(answer(part).float().softmax(dim=1).numpy())  # log-probabilities' softmax are they
        return np.concatenate(parts)

    def predict(self, x: Any, model: str = "student") -> Array:
        """The most probable classes (N,), as `classes` names them."""
        return self.classes[self.predict_proba(x, model).argmax(axis=1)]  # type: ignore[no-any-return]

    def export(self, form: str = "safetensors", output: Path | str | None = None) -> Path:
        """Write the student as safetensors, pt2 or onnx; it is loaded again and compared. Returns the file."""
        from raydistill.deployment.export import export_student

        target = Path(output) if output is not None else self.folder.path / "export" / f"student.{form}"
        with kept_surroundings():
            export_student(self.folder.location, form, target)
        return target

    def __repr__(self) -> str:
        finished = self._list_finished()
        state = f"finished: {', '.join(finished)}" if finished else "nothing finished yet"
        return f"Run({self.folder.location!r}; {state})"

    def _repr_html_(self) -> str:
        import html

        if "report" in self._list_finished():
            return self.report._repr_html_()
        return f"<code>{html.escape(repr(self))}</code>"

    def _list_finished(self) -> list[str]:
        if not self.folder.manifest_path.exists():
            return []
        there = self.folder.read_manifest()["stages"]
        return [stage for stage in STAGES if stage in there]

    def _launch(self, until: str) -> RunFolder:
        for name in ("student", "teacher"):  # of what the folder held before
            self.__dict__.pop(name, None)
        with kept_surroundings():
            warnings.filterwarnings("ignore", message="IProgress not found")  # Optuna's bars, which are not shown
            from raydistill.commands.launch import launch

            self.folder = launch(
                self.config,
                on_change=self._on_change,
                start_from=self._start_from,
                verbose=self._verbose,
                until=until,
                display=self._display,
            )
        return self.folder

    def _check_data(self) -> None:
        """Whether it is of a kind that can be read."""
        from raydistill.data.objects import read_object

        read_object(self._data)

    @cached_property
    def _given(self) -> str:
        """Where the data are, in the run folder; of a run in an object store, beside its copy on this machine."""
        from raydistill.data.stored import give_data

        folder = self.folder.path
        return give_data(self._data, (folder.parent if is_uri(self.folder.location) else folder) / GIVEN)

    def _open_examples(self) -> Examples:
        from raydistill.data.arrays import open_examples

        if "data" not in self._list_finished():
            raise RunFolderError(f"run_dir: {self.folder.location!r} has no finished data; call fit or plan first")
        return open_examples(self.folder)

    def _to_batch(self, x: Any) -> Array:
        """Examples in a type that PyTorch has. Raises DataError where their shape is not the training data's."""
        from raydistill.data.objects import to_array
        from raydistill.data.stored import choose_type

        shape = self._open_examples().input_shape
        array = to_array(x, "x")
        if array.shape[1:] != shape or array.ndim == 0 or len(array) == 0:
            raise DataError(f"x: shape {array.shape} is not allowed; give (examples, {', '.join(map(str, shape))})")
        return array.astype(choose_type(array.dtype))
