import raydistill.notebook
from raydistill.display import open_display
from raydistill.execution.jobs import JobEvent
from raydistill.notebook import Notebook


class Output:
    """A cell's output."""

    def __init__(self):
        self.shown = []

    def __call__(self, first):
        self.shown.append(first)
        return self.shown.append


def test_a_bar_while_it_runs_and_lines_when_it_has_ended(monkeypatch):
    monkeypatch.setattr(raydistill.notebook, "REFRESH_SECONDS", 0.0)
    output = Output()
    display = Notebook(output)
    display.begin_stage("generalist", 3, 11)
    display.on_event(JobEvent("generalist", "running", "", {"epoch": 1, "epochs": 4, "fraction": 0.25, "value": 0.5}))
    assert '<b>[3/11] generalist</b> <progress value="0.250" max="1">' in output.shown[-1]
    assert "25%  pass 1 of 4, 50.0% right" in output.shown[-1]
    display.note("a < b")
    display.end_stage(3.0, skipped=False)
    display.begin_stage("confusion", 4, 11)
    display.end_stage(0.0, skipped=True)
    display.close()
    lines = ["[3/11] generalist: a &lt; b", "[3/11] generalist: done in 3 s"]
    assert "\n".join([*lines, "[4/11] confusion: finished before, skipped"]) in output.shown[-1]
    assert "progress" not in output.shown[-1]


def test_updates_are_few():
    output = Output()
    display = Notebook(output)
    display.begin_stage("student", 1, 1)
    for step in range(1000):
        display.update(step / 1000, "")
    assert len(output.shown) < 10


def test_a_notebook_is_recognised(monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(raydistill.notebook, "show_html", Output())
    assert isinstance(open_display(), Notebook)
