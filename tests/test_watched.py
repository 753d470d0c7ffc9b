from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree

from benchmarks.page import _number
from benchmarks.speed.sampling import Sampler, cut_stack, draw_flames
from benchmarks.speed.watched import OUTSIDE, sum_up


def wait_here(seconds: float) -> None:
    time.sleep(seconds)


def test_the_sampler_sees_where_the_main_thread_is() -> None:
    sampler = Sampler()
    wait_here(0.5)
    sampler.stop()
    seconds = sum(seconds for _, seconds, stack in sampler.samples if "wait_here (test_watched)" in stack)
    assert 0.3 < seconds < 0.7


def test_seconds_by_stage_and_kind() -> None:
    sampler = Sampler()
    sampler.stop()
    sampler.samples = [
        (10.0, 1.0, ("main (cli)",)),
        (11.0, 2.0, ("main (cli)", "stage generalist", "train_model (training)", "step (adamw)")),
        (12.0, 3.0, ("main (cli)", "stage student", "wait (threading)")),
        (20.0, 4.0, ("main (cli)", "stage student", "wait (threading)")),  # while a worker trains
        (30.0, 5.0, ("main (cli)", "stage report", "predict_logits (scoring)")),
    ]
    stages, rest = sum_up(sampler, [(19.0, 21.0)])
    assert stages == {
        OUTSIDE: {"training": 0.0, "predicting": 0.0, "rest": 1.0},
        "generalist": {"training": 2.0, "predicting": 0.0, "rest": 0.0},
        "student": {"training": 4.0, "predicting": 0.0, "rest": 3.0},
        "report": {"training": 0.0, "predicting": 5.0, "rest": 0.0},
    }
    assert rest == [(("main (cli)",), 1.0), (("stage student", "wait (threading)"), 3.0)]


def test_a_flame_graph_is_svg_whose_widths_are_seconds() -> None:
    drawn = draw_flames([(("a", "b"), 3.0), (("a", "<c>"), 1.0), (("d",), 4.0)], "rest")
    boxes = ElementTree.fromstring(drawn).findall(".//{*}g")
    widths = {box[0].text: float(box[1].attrib["width"]) for box in boxes}
    assert widths == {"a: 4.00 s": 599.5, "<c>: 1.00 s": 149.5, "b: 3.00 s": 449.5, "d: 4.00 s": 599.5}
    assert "rest, 8.0 s" in drawn


def test_stacks_are_cut_at_a_stage() -> None:
    assert cut_stack(("main", "stage data", "read"), "stage ") == ("stage data", "read")
    assert cut_stack(("main", "read"), "stage ") == ("main", "read")


def test_parts_stand_in_the_order_of_their_numbers() -> None:
    titles = ["## 10. Ten", "## 4b. Second half", "## 4. First", "## 5. Five"]
    assert [title[3:6] for title in sorted(titles, key=lambda title: _number(("", title)))] == [
        "4. ",
        "4b.",
        "5. ",
        "10.",
    ]
