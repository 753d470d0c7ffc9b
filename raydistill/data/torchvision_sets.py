"""Data sets of torchvision as a source: `torchvision:NAME?root=FOLDER&KEY=VALUE`.

Comes in: a name of torchvision.datasets; root, and whatever else its class takes. Goes out: a `Catalogue`: training
images, then those for validation, then the test's. Images of the class are decoded by torchvision itself.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raydistill.data.catalogue import Catalogue, Rows
from raydistill.data.images import SAMPLED, CorruptRecord, FormWish, ImageForm, describe_problem, fit_image, settle_form
from raydistill.data.ingest_errors import IngestError
from raydistill.data.labels import check_classes, index_labels
from raydistill.data.names import Named
from raydistill.data.splits import FIT, SPLIT_NAMES
from raydistill.errors import describe_in_line
from raydistill.storage.files import Array, hash_json

WAYS = {"train": ("train", "trainval"), "validation": ("val", "valid"), "test": ("test",)}
"""What the argument `split` of a data set's class may be called, for each part; the first that it takes counts."""
LABELS = ("targets", "labels", "_labels", "y")  # attributes that hold all labels
BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class SetReader:
    """Opens a data set. parts: name, arguments of its class as JSON, number of records."""

    name: str
    parts: tuple[tuple[str, str, int], ...]
    form: ImageForm

    @contextlib.contextmanager
    def open(self) -> Iterator[Rows]:
        """Build the parts, without fetching anything; a process keeps them."""
        yield SetRows([_open_part(self.name, arguments) for _, arguments, _ in self.parts], self)

    def name_row(self, row: int) -> str:
        """Part and number in it."""
        part, place = self.find(row)
        return f"{self.parts[part][0]} {place}"

    def find(self, row: int) -> tuple[int, int]:
        """Number of the part that holds a row, and its place there."""
        for part, (_, _, count) in enumerate(self.parts):
            if row < count:
                return part, row
            row -= count
        raise IndexError(row)


@dataclass(frozen=True)
class SetRows:
    """Open rows."""

    sets: Sequence[Any]
    reader: SetReader

    def fill(self, start: int, names: Sequence[str], out: Array) -> dict[int, tuple[str, str]]:
        """See `Rows`."""
        corrupt = {}
        for offset in range(len(out)):
            part, place = self.reader.find(start + offset)
            try:
                out[offset] = fit_image(self.sets[part][place][0], self.reader.form)
            except MemoryError:
                raise
            except Exception as error:  # damaged files make decoders raise nearly anything
                out[offset] = 0
                reason = str(error) if isinstance(error, CorruptRecord) else describe_problem(error)
                corrupt[offset] = (self.reader.name_row(start + offset), reason)
        return corrupt


def list_torchvision(named: Named, wish: FormWish | ImageForm) -> Catalogue:
    """Images of all parts that the data set has. Raises DataError where library, name, arguments or files are at fault.

    What is not there is fetched into root (~/.cache/torch/datasets where it is left out), unless download=false.
    """
    found = _open_parts(find_class(named.place), named)
    first = next(iter(found.values()))[1]
    _check_images(first, named)
    places = range(0, len(first), max(1, len(first) // SAMPLED))
    form = settle_form(wish, (record[0] for record in _read_records(first, places) if record is not None))
    parts = tuple((part, arguments, len(records)) for part, (arguments, records) in found.items())
    reader = SetReader(named.place, parts, form)
    names = getattr(first, "classes", None)
    labels, class_names = [], None if names is None else [_join_name(name) for name in names]
    for part, (_, records) in found.items():
        where = f"labels of {named.place}'s {part}"
        found_labels = _read_labels(records)
        known = found_labels >= 0
        found_labels[known], class_names = index_labels(found_labels[known], class_names, where)
        labels.append(found_labels)
    split = np.concatenate([np.full(count, SPLIT_NAMES[part], np.int8) for part, _, count in parts])
    everything = np.concatenate(labels)
    check_classes(everything[(split == FIT) & (everything >= 0)], class_names or [])
    identity = [named.place, parts, hash_json(everything.tolist())]
    return Catalogue(reader, everything, class_names or [], split, form, form.shape, "uint8", identity, reader.name_row)


def import_datasets() -> Any:
    """The module torchvision.datasets. Raises DataError where it is missing or does not fit the installed torch."""
    try:
        from torchvision import datasets
    except ImportError as error:
        raise IngestError(
            "source", f"torchvision cannot be imported ({describe_in_line(error)}); pip install torchvision"
        ) from None
    except Exception as error:  # beside another torch its operators cannot be registered: RuntimeError
        raise IngestError(
            "source", f"torchvision cannot be imported ({describe_in_line(error)}); install the version that fits torch"
        ) from None
    return datasets


def find_class(name: str) -> Callable[..., Any]:
    """A data set's class. Raises DataError for names that torchvision has not."""
    library = import_datasets()
    known = [other for other in library.__all__ if inspect.isclass(getattr(library, other, None))]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise IngestError(
            "source",
            f"torchvision has no data set {name!r}; "
            + (f"did you mean {near[0]!r}?" if near else f"give one of {', '.join(known[:8])}, …"),
        )
    return getattr(library, name)  # type: ignore[no-any-return]


def _open_parts(kind: Callable[..., Any], named: Named) -> dict[str, tuple[str, Any]]:
    """Arguments and records of each part of the data set, training first."""
    taken = inspect.signature(kind).parameters
    given: dict[str, Any] = {name: BOOLEANS.get(value.lower(), value) for name, value in named.options.items()}
    unknown = sorted(set(given) - set(taken) - {"root", "download"})
    if unknown:
        raise IngestError(
            "source", f"{unknown[0]!r} is no argument of torchvision's {named.place}; it takes {', '.join(taken)}"
        )
    given["root"] = str(Path(given.get("root") or default_root()).expanduser().absolute())
    if "download" in taken:
        given.setdefault("download", True)
    else:
        given.pop("download", None)
    parts = {}
    for part, ways in _list_ways(taken, given).items():
        opened = _try_ways(kind, named.place, given, ways)
        if opened is not None:
            parts[part] = opened
    if "train" not in parts:
        raise IngestError(
            "source", f"torchvision's {named.place} has no part for training with these arguments; change them"
        )
    return parts


def _list_ways(taken: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """For each part, the arguments by which the class may give it."""
    if "train" in taken and "train" not in given:
        return {"train": [{"train": True}], "test": [{"train": False}]}
    if "split" in taken and "split" not in given:
        return {part: [{"split": way} for way in ways] for part, ways in WAYS.items()}
    return {"train": [{}]}


def _try_ways(
    kind: Callable[..., Any], name: str, given: Mapping[str, Any], ways: Sequence[Mapping[str, Any]]
) -> tuple[str, Any] | None:
    """Arguments, without download, and records by the first way that the class takes; None where it takes none."""
    for way in ways:
        try:
            records = kind(**given, **way)
        except ValueError as error:
            if "split" in way:  # not one of its splits
                continue
            raise IngestError("source", f"torchvision's {name} cannot be opened ({describe_in_line(error)})") from None
        except Exception as error:  # network, files, arguments, libraries that it needs: the user needs the one line
            raise IngestError(
                "source",
                f"torchvision's {name} cannot be opened in {given['root']!r} ({describe_in_line(error)}); check"
                f" ?root=FOLDER and the network",
            ) from None
        kept = {key: value for key, value in given.items() if key != "download"}
        return json.dumps({**kept, **way}), records
    return None


@functools.lru_cache(maxsize=4)
def _open_part(name: str, arguments: str) -> Any:
    return find_class(name)(**json.loads(arguments))


def default_root() -> Path:
    """Where torch keeps what it fetches."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TORCH_HOME") or Path(cache, "torch")) / "datasets"


def _check_images(records: Any, named: Named) -> None:
    """Refuse data sets whose records are not an image and a class. Raises DataError."""
    record = next(filter(None, _read_records(records, range(len(records)))), None)
    image, label = record if isinstance(record, tuple) and len(record) == 2 else (None, None)
    if not isinstance(image, Image.Image) or not isinstance(label, int | np.integer):
        raise IngestError(
            "source",
            f"records of torchvision's {named.place} are not an image and its class, a number; take a data set"
            " for classification",
        )


def _read_labels(records: Any) -> Array:
    """All labels, (N,) int64: as the data set holds them, or record by record; -1 where a record cannot be read."""
    for name in LABELS:
        held = getattr(records, name, None)
        if held is not None and len(held) == len(records):
            labels = np.asarray(held)
            if labels.ndim == 1 and labels.dtype.kind in "iu":
                return labels.astype(np.int64)
    read = _read_records(records, range(len(records)))
    return np.array([-1 if record is None else record[1] for record in read], np.int64)


def _read_records(records: Any, places: Iterable[int]) -> Iterator[Any]:
    """Records, None for those that cannot be read, which are told when they are decoded."""
    for place in places:
        try:
            yield records[place]
        except MemoryError:
            raise
        except Exception:
            yield None


def _join_name(name: Any) -> str:
    """A class's name; ImageNet's are several synonyms."""
    return ", ".join(map(str, name)) if isinstance(name, tuple | list) else str(name)
