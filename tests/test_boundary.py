"""Names and links that would lead out of a run folder."""

import json
import shutil

import pytest
from builders import list_results, quick_config, run_quick

from raydistill.deployment.loading import load_student
from raydistill.errors import RunFolderError
from raydistill.storage.boundary import check_links, stays_inside
from raydistill.storage.run_folder import RunFolder

OUTSIDE = ["../x", "a/../../x", "/etc/passwd", "", ".", "..", "a\\..\\..\\x", "x\0"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_quick(quick_config(tmp_path_factory.mktemp("boundary") / "run"))


@pytest.fixture
def copied(finished, tmp_path):
    return RunFolder(shutil.copytree(finished.path, tmp_path / "run"))


def edit_manifest(run, change):
    manifest = json.loads(run.manifest_path.read_text())
    change(manifest)
    run.manifest_path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_outside(name):
    assert not stays_inside(name)


@pytest.mark.parametrize("name", ["x.npy", "000/weights.safetensors", "..x/a..b", ".hidden"])
def test_names_inside(name):
    assert stays_inside(name)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_that_names_a_file_outside_is_refused(copied, name):
    edit_manifest(copied, lambda manifest: manifest["stages"]["data"]["files"].update({name: "0" * 64}))
    for read in (copied.read_manifest, copied.read_config, lambda: load_student(copied.path)):
        with pytest.raises(RunFolderError, match="outside the run folder"):
            read()
    with pytest.raises(RunFolderError, match="outside the run folder"):
        run_quick(quick_config(copied.path))


def test_a_run_does_not_start_from_one_that_names_a_file_outside(copied, tmp_path):
    """Taking it over would have linked the other run's file over the victim."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    edit_manifest(copied, lambda manifest: manifest["stages"]["data"]["files"].update({"../../victim": "0" * 64}))
    with pytest.raises(RunFolderError, match=r"start_from: .*outside the run folder"):
        run_quick(quick_config(tmp_path / "new"), start_from=copied.path)
    assert victim.read_text() == "mine"
    assert not (tmp_path / "new" / "manifest.json").exists()


@pytest.mark.parametrize("place", ["06_specialists", "begun", "begun/student", ".lock", "ray", "11_student/student"])
def test_a_link_out_of_the_run_folder_is_refused_before_anything_is_written(copied, tmp_path, place):
    outside = tmp_path / "outside"
    link = copied.path / place
    link.parent.mkdir(exist_ok=True)
    if link.exists():
        link.rename(outside)
    elif place == "ray":
        outside.mkdir()
    else:
        outside.write_text("mine")
    link.symlink_to(outside)
    before = sorted((path, path.stat().st_mtime_ns) for path in [outside, *outside.rglob("*")])
    with pytest.raises(RunFolderError, match=r"is a link to .*outside the run folder") as caught:
        run_quick(quick_config(copied.path, specialists={"epochs": 1}), on_change="redo")
    assert str(link) in str(caught.value)
    assert sorted((path, path.stat().st_mtime_ns) for path in [outside, *outside.rglob("*")]) == before
    with pytest.raises(RunFolderError, match="outside the run folder"):
        run_quick(quick_config(tmp_path / "new"), start_from=copied.path)


def test_the_run_folder_itself_may_be_a_link_and_links_may_stay_inside(copied, tmp_path):
    (tmp_path / "name").symlink_to(copied.path)
    (copied.path / "latest").symlink_to("12_report/report.html")
    (copied.path / "loop").symlink_to("loop")
    check_links(tmp_path / "name")
    before = list_results(copied)
    assert list_results(run_quick(quick_config(tmp_path / "name"))) == before


@pytest.mark.parametrize("name", ["../06_specialists/000", "/etc", "nothing"])
def test_a_student_has_one_of_the_runs_names(finished, name):
    with pytest.raises(RunFolderError, match="give one of student, labels_only, generalist_targets"):
        load_student(finished.path, name)
