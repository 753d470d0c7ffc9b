"""Data sets of torchvision, by classes that behave as torchvision's do: it cannot be imported beside every torch."""

import sys
import types

import numpy as np
import pytest
from builders import quick_config, run_quick
from PIL import Image

from raydistill.commands.ingest import ingest
from raydistill.data import torchvision_sets
from raydistill.data.images import ImageForm
from raydistill.data.ingested import open_arrays
from raydistill.data.ingestion import run_here
from raydistill.data.torchvision_sets import default_root
from raydistill.data.wanted import Wanted
from raydistill.display import Silent
from raydistill.errors import DataError
from raydistill.storage.files import read_array, read_json


def draw(part, count, size=8):
    return np.random.default_rng(len(part)).integers(0, 256, (count, size, size), dtype=np.uint8)


class Base:
    """As torchvision's: targets, classes, and (image, target) by index."""

    classes = ("zero", "one", "two")

    def __init__(self, root, part, download=False):
        FOUND.append((type(self).__name__, root, part, download))
        count = 6 if part == "val" else 12
        self.data, self.targets = draw(part, count), [0, 1, 2] * (count // 3)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return Image.fromarray(self.data[index]), self.targets[index]


class CIFAR10(Base):
    """Of the kind with `train`."""

    def __init__(self, root, train=True, transform=None, target_transform=None, download=False):
        super().__init__(root, "train" if train else "test", download)


class Flowers102(Base):
    """Of the kind with `split`, whose labels are private and whose classes have no list."""

    classes = None

    def __init__(self, root, split="train", transform=None, target_transform=None, download=False):
        if split not in ("train", "val", "test"):
            raise ValueError(f"Unknown value '{split}' for argument split.")
        super().__init__(root, split, download)
        self._labels = self.targets
        del self.targets

    def __getitem__(self, index):
        return Image.fromarray(self.data[index]), self._labels[index]


class Caltech101(Base):
    """Of the kind without parts, with damaged files and labels that only records tell."""

    def __init__(self, root, target_type="category", download=False):
        super().__init__(root, "train", download)
        self._held = self.targets
        del self.targets

    def __getitem__(self, index):
        if index in (0, 4):
            raise OSError("image file is truncated")
        return Image.fromarray(self.data[index]), self._held[index]


class Missing(Base):
    def __init__(self, root, train=True):
        raise RuntimeError("Dataset not found.\nYou can use download=True to download it")


class CocoDetection(Base):
    def __init__(self, root, train=True):
        super().__init__(root, "train")

    def __getitem__(self, index):
        return Image.fromarray(self.data[index]), [{"bbox": [1, 2, 3, 4]}]


FOUND = []


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    library = types.ModuleType("torchvision")
    library.datasets = types.ModuleType("torchvision.datasets")
    for kind in (CIFAR10, Flowers102, Caltech101, Missing, CocoDetection):
        setattr(library.datasets, kind.__name__, kind)
    library.datasets.__all__ = ("CIFAR10", "Flowers102", "Caltech101", "Missing", "CocoDetection", "wrap_dataset")
    monkeypatch.setitem(sys.modules, "torchvision", library)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", library.datasets)
    FOUND.clear()
    torchvision_sets._open_part.cache_clear()


def take(source, output, limit=0):
    wanted = Wanted(source, ImageForm(8, 1, "crop"))
    ingest(wanted, output, limit=limit, run_blocks=run_here, display=Silent())
    return open_arrays(output)


def test_train_and_test_of_a_set_with_train(tmp_path):
    arrays = take(f"torchvision:CIFAR10?root={tmp_path}/data", tmp_path / "out")
    np.testing.assert_array_equal(arrays.x, np.concatenate([draw("train", 12), draw("test", 12)]))
    np.testing.assert_array_equal(arrays.y, [0, 1, 2] * 8)
    assert (arrays.train, arrays.class_names) == (12, ["zero", "one", "two"])
    root = str(tmp_path / "data")
    fetched = [("CIFAR10", root, part, True) for part in ("train", "test")]
    assert fetched + [("CIFAR10", root, part, False) for part in ("train", "test")] == FOUND  # blocks fetch nothing


def test_splits_of_a_set_with_split(tmp_path):
    arrays = take(f"torchvision:Flowers102?root={tmp_path}", tmp_path / "out")
    drawn = [draw("train", 12), draw("val", 6), draw("test", 12)]
    np.testing.assert_array_equal(arrays.x, np.concatenate(drawn))
    np.testing.assert_array_equal(arrays.split, [0] * 12 + [2] * 6)
    assert arrays.class_names == ["0", "1", "2"]


def test_arguments_choose_a_part(tmp_path):
    arrays = take(f"torchvision:CIFAR10?root={tmp_path}&train=false&download=false", tmp_path / "out")
    np.testing.assert_array_equal(arrays.x, draw("test", 12))
    assert arrays.train == 12
    assert not any(download for *_, download in FOUND)


def test_damaged_images_are_left_out(tmp_path):
    arrays = take(f"torchvision:Caltech101?root={tmp_path}", tmp_path / "out", limit=2)
    np.testing.assert_array_equal(arrays.x, np.delete(draw("train", 12), [0, 4], axis=0))
    np.testing.assert_array_equal(arrays.y, np.delete([0, 1, 2] * 4, [0, 4]))
    told = [{"name": f"train {index}", "reason": "image file is truncated"} for index in (0, 4)]
    assert read_json(tmp_path / "out/corrupt.json") == told


def test_a_run_takes_a_set_and_chooses_the_form(tmp_path):
    config = quick_config(tmp_path / "run", data=f"torchvision:CIFAR10?root={tmp_path}/data")
    run = run_quick(config, until="data")
    assert read_json(run.stage_folder("data") / "form.json") == {"size": 8, "channels": 1, "resize": "crop"}
    np.testing.assert_array_equal(read_array(run.stage_folder("data") / "x.npy")[:12], draw("train", 12))


def test_left_out_the_root_is_torchs_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert default_root() == tmp_path / "datasets"
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "torch" / "datasets"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("torchvision:CIFAR100", "torchvision has no data set 'CIFAR100'; did you mean 'CIFAR10'?"),
        ("torchvision:wrap_dataset", "has no data set 'wrap_dataset'; give one of CIFAR10"),
        ("torchvision:CIFAR10?year=3", "'year' is no argument of torchvision's CIFAR10; it takes root, train, tr"),
        ("torchvision:Flowers102?split=dev", r"Flowers102 cannot be opened \(Unknown value 'dev' for argument split"),
        (
            "torchvision:Missing?root=R",
            r"Missing cannot be opened in '.*/R' \(Dataset not found. You can .*; check .root",
        ),
        ("torchvision:CocoDetection", "are not an image and its class, a number; take a data set for classification"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, source, told):
    with pytest.raises(DataError, match=told) as raised:
        take(source, tmp_path / "out")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (None, r"torchvision cannot be imported \(.*\); pip install torchvision"),
        (
            RuntimeError("operator torchvision::nms does not exist"),
            "nms does not exist.*; install the version that fits",
        ),
    ],
)
def test_a_torchvision_that_cannot_be_imported_is_told(tmp_path, monkeypatch, plant, told):
    class Broken(types.ModuleType):
        def __getattr__(self, name):
            if plant is not None and name == "datasets":
                raise plant
            raise AttributeError(name)

    monkeypatch.setitem(sys.modules, "torchvision", None if plant is None else Broken("torchvision"))
    with pytest.raises(DataError, match=told):
        run_quick(quick_config(tmp_path / "run", data="torchvision:CIFAR10"), until="data")
