"""The whole way as a scikit-learn estimator: fit trains teacher and student, predict asks the student.

Comes in: X (N, F), or images (N, H, W) and the like, and y of any labels. Goes out: an estimator that pickles, clones
and works in pipelines and in cross-validation.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from raydistill.arguments import ModelLike, name_model, to_plain
from raydistill.display import Silent
from raydistill.errors import DataError
from raydistill.run import PREDICT_ROWS, Run
from raydistill.storage.files import Array

LARGEST_SEED = 2**31 - 1


class DistilledClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A generalist, specialists for the classes that it confuses, and one student that learns from them.

    model, student: as of `Run`. settings: nested settings by section, for example {"specialists": {"groups": 8}}.
    run_dir: folder of the run, which a later fit of the same data and settings goes on with; None: one that is removed.
    random_state: seed; an integer, a RandomState, or None for 0. verbose: show progress.

    Works in this process, without Ray, unless settings say {"cluster": {"backend": "ray"}}. Parts of the examples are
    held out: 10 % to find confusions, 10 % to tune the student, 12 % for `report_`. Needs 3 classes or more.

    After fit: classes_ (K,), n_features_in_, student_ (a torch module), report_ (the figures of report.json).
    """

    def __init__(
        self,
        model: ModelLike = "mlp",
        student: ModelLike | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        run_dir: str | Path | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.student = student
        self.settings = settings
        self.run_dir = run_dir
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> DistilledClassifier:  # noqa: N803
        """Train on X (N, ...), finite numbers, and y (N,), labels. Raises ValueError for what cannot be used."""
        x, labels = validate_data(self, X, y, allow_nd=True, dtype=[np.float32, np.uint8], order="C")
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 3:
            raise ValueError(
                f"y: {len(self.classes_)} class{'es' if len(self.classes_) != 1 else ''}; give at least 3, or"
                " specialists have nothing to tell apart"
            )
        with self._folder() as folder:
            try:
                run = self._make_run(x, numbers, folder).fit()
            except DataError as error:
                raise ValueError(str(error)) from error
            self.student_ = run.student.cpu()
            self.report_ = run.report.figures
        self.input_shape_ = x.shape[1:]
        return self

    def predict_proba(self, X: Any) -> Array:  # noqa: N803
        """Probabilities (N, K), in the order of classes_; they sum to 1."""
        import torch

        check_is_fitted(self)
        x = validate_data(self, X, allow_nd=True, dtype=[np.float32, np.uint8], order="C", reset=False)
        if x.shape[1:] != self.input_shape_:
            raise ValueError(f"X: shape {x.shape[1:]} of an example; fit had {self.input_shape_}")
        with torch.inference_mode():
            parts = [
                self.student_(part).double().softmax(dim=1).numpy() for part in torch.from_numpy(x).split(PREDICT_ROWS)
            ]
        return np.concatenate(parts)

    def predict(self, X: Any) -> Array:  # noqa: N803
        """The most probable class of each example, (N,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]  # type: ignore[no-any-return]

    def _make_run(self, x: Array, numbers: Array, folder: str) -> Run:
        settings = dict(self.settings or {})
        settings["cluster"] = {"backend": "none", **to_plain(settings.get("cluster", {}))}
        settings.setdefault("seed", self._draw_seed())
        student = settings.pop("student", None)
        if self.student is not None:
            student = {**to_plain(student or {}), "model": name_model(self.student)}
        display = None if self.verbose else Silent()
        return Run((x, numbers), run_dir=folder, model=self.model, student=student, display=display, **settings)

    def _draw_seed(self) -> int:
        if self.random_state is None or isinstance(self.random_state, int | np.integer):
            return int(self.random_state or 0)
        return int(self.random_state.randint(LARGEST_SEED))

    @contextlib.contextmanager
    def _folder(self) -> Iterator[str]:
        if self.run_dir is not None:
            yield str(self.run_dir)
            return
        with tempfile.TemporaryDirectory(prefix="raydistill-") as folder:
            yield str(Path(folder) / "run")
