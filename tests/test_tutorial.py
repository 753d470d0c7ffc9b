"""What README and docs show from Python, run as it stands there."""

import re
from pathlib import Path

import nbformat
import pytest
from builders import QUICK
from nbclient import NotebookClient

import raydistill
from raydistill.display import Silent
from raydistill.run import Run

ROOT = Path(raydistill.__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
FOLDER = "runs/mine"


class QuickRun(Run):
    """A run with settings that take a second, and without Ray."""

    def __init__(self, data, **settings):
        quick = {name: {**section, **settings.pop(name, {})} for name, section in QUICK.items() if name != "student"}
        super().__init__(data, **{**settings, **quick, "display": Silent()})


def test_the_readmes_example(tmp_path, monkeypatch, capsys):
    """The block that begins a run, and those that go on with its folder, in order."""
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    first = next(index for index, block in enumerate(blocks) if "raydistill.Run(" in block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(raydistill, "Run", QuickRun)
    names = {}
    for block in blocks[first:]:
        if "raydistill.Run(" in block or FOLDER in block:
            exec(compile(block, "README.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "Perfect specialists would lift accuracy" in shown
    assert names["run"].report["student"]["test_accuracy"] > 0.7
    assert (tmp_path / FOLDER / "12_report" / "report.html").exists()


def execute(folder, change=lambda cell: None):
    """Run the notebook in a kernel of its own."""
    notebook = nbformat.read(TUTORIAL, 4)
    for cell in notebook.cells:
        change(cell)
    return NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()


def read_outputs(notebook):
    """All text of outputs, and how many pictures there are."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [output.get("text", "") or str(output.get("data", {}).get("text/html", "")) for output in outputs]
    return "\n".join(texts), sum("image/png" in output.get("data", {}) for output in outputs)


def list_faults(notebook):
    """What its outputs have that they should not, and have not that they should."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    faults = [output.evalue for output in outputs if output.output_type == "error"]
    text, pictures = read_outputs(notebook)
    if pictures != 5:
        faults.append(f"{pictures} pictures instead of 5")
    wrong = re.search(r"(\d+) of 1797 wrong", text)
    if wrong is None or int(wrong[1]) >= 400:
        faults.append(f"examples that are wrong: {wrong and wrong[1]}, not below 400")
    faults += [line for line in text.splitlines() if "Warning" in line]
    wanted = ("gain at most", "control: same network, labels only", "] report: done in")  # plan, report, display
    return faults + [f"no {words!r}" for words in wanted if words not in text]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook's client
def test_the_tutorial_with_quick_settings(tmp_path):
    def hurry(cell):
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = f"settings = {QUICK!r}"

    assert list_faults(execute(str(tmp_path), hurry)) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_tutorial_as_it_is(tmp_path):
    assert list_faults(execute(str(tmp_path))) == []


def test_the_tutorials_outputs_are_there():
    assert list_faults(nbformat.read(TUTORIAL, 4)) == []
