"""The simulated cluster against cases whose answer is known, and the arithmetic of benchmarks/scale.py."""

from __future__ import annotations

from typing import Literal

import pytest

from benchmarks.scale import bound_makespan, describe_course, draw_specialists, write_page
from benchmarks.simulated import START_SECONDS, Cluster, Course, Specialist, simulate
from benchmarks.virtual import World

Answer = Literal["crew", "restart"]


def equal(count: int, epochs: int = 10, seconds: float = 10.0) -> list[Specialist]:
    return [Specialist(1.0, epochs, seconds)] * count


def over_bound(course: Course, specialists: list[Specialist]) -> float:
    return describe_course(course, specialists)["over_bound_percent"]


@pytest.mark.parametrize(
    ("specialists", "slots", "makespan"),
    [
        (equal(16), 8, 200),
        (equal(16), 64, 100),
        ([Specialist(cost, 1, cost) for cost in (3, 5, 4)], 1, 12),
        ([Specialist(100, 10, 10), *equal(20, 1, 5)], 2, 100),
        ([Specialist(cost, 1, cost) for cost in (5, 5, 4, 4, 3, 3, 3)], 3, 11),  # Graham 1969: 9 would be possible
        ([Specialist(-cost, 1, cost) for cost in (9, 1, 1, 1)], 2, 10),  # the longest last
    ],
)
def test_makespans_without_losses(specialists: list[Specialist], slots: int, makespan: float) -> None:
    course = simulate(specialists, Cluster(slots), seed=0)
    assert course.makespan == pytest.approx(makespan)
    assert course.trained == pytest.approx(sum(one.seconds for one in specialists))
    assert course.calls["finish"] == len(specialists)


@pytest.mark.parametrize("answer", ["crew", "restart"])
def test_a_cluster_of_one_node_goes_on_from_the_last_epoch(answer: Answer) -> None:
    course = simulate(equal(8), Cluster(8, lost=((25, 0),), answer=answer), seed=0)
    assert course.makespan == pytest.approx(25 + 180 + START_SECONDS + 80)
    assert course.trained == pytest.approx(8 * (100 + 5))  # the third epoch was half done
    assert (course.losses, course.interruptions, course.failed) == (1, 8, 0)


def test_when_all_restart_those_left_take_the_jobs_of_the_lost() -> None:
    course = simulate(equal(16), Cluster(16, lost=((25, 0),), answer="restart"), seed=0)
    assert course.makespan == pytest.approx(25 + START_SECONDS + 2 * 80)  # nodes back are noticed after 5 minutes
    assert course.interruptions == 16


def test_nodes_that_come_back_are_noticed_and_all_restart() -> None:
    course = simulate(equal(16, epochs=100), Cluster(16, lost=((25, 1),), answer="restart"), seed=0)
    # 8 go on at 35 s, from the second epoch; the third look after that, the node being back at 205 s, has all restart,
    # and 8 jobs still have 98 epochs before them
    assert course.makespan == pytest.approx(25 + START_SECONDS + 3 * 60 + START_SECONDS + 980)
    assert course.interruptions == 16 + 8


def test_a_lost_node_leaves_the_others_at_work_and_its_jobs_to_them() -> None:
    course = simulate(equal(16), Cluster(16, lost=((25, 0),)), seed=0)
    assert course.makespan == pytest.approx(100 + 80)
    assert course.interruptions == 8


def test_a_node_that_comes_back_takes_jobs_again() -> None:
    course = simulate(equal(16, epochs=100), Cluster(16, lost=((25, 0),)), seed=0)
    assert course.makespan == pytest.approx(25 + 180 + START_SECONDS + 980)
    assert course.interruptions == 8


@pytest.mark.parametrize("answer", ["crew", "restart"])
def test_no_finished_epoch_is_trained_again(answer: Answer) -> None:
    specialists = [Specialist(cost, 10, cost) for cost in range(1, 31)]
    cluster = Cluster(16, up=250, down=60, answer=answer)
    course = simulate(specialists, cluster, seed=3)
    assert len(course.ends) == 30 - course.failed
    assert course.losses >= 3
    assert course.failed == 0
    again = course.trained - sum(one.seconds for one in specialists)
    assert 0 < again < course.interruptions * 30
    assert over_bound(course, specialists) > 0


def test_a_seed_decides_everything() -> None:
    cluster = Cluster(16, up=300, down=60)
    one, same, other = (simulate(equal(40), cluster, seed) for seed in (1, 1, 2))
    assert (one.ends, one.calls, one.slots_at) == (same.ends, same.calls, same.slots_at)
    assert one.ends != other.ends


def test_the_bound_knows_when_slots_were_up() -> None:
    specialists = equal(10, 1, 10.0)
    assert bound_makespan(specialists, [(0, 4)]) == 25
    assert bound_makespan(specialists, [(0, 100)]) == 10
    assert bound_makespan(specialists, [(0, 4), (10, 0), (20, 4)]) == 35
    assert bound_makespan(specialists, [(0, 4), (90, 1)]) == 25


def test_specialists_are_drawn_whole() -> None:
    profile = [{"cost": 10.0, "epochs": 4, "seconds": 2.0}, {"cost": 20.0, "epochs": 5, "seconds": 10.0}]
    drawn = draw_specialists(profile, 50, 3.0, seed=0)
    assert {(one.cost, one.epochs, one.seconds) for one in drawn} == {(10.0, 4, 6.0), (20.0, 5, 30.0)}
    assert drawn == draw_specialists(profile, 50, 3.0, seed=0)


def test_processes_take_turns_by_the_clock() -> None:
    world, told = World(), []

    def tell(name: str, pause: float) -> None:
        for _ in range(2):
            world.sleep(pause)
            told.append((name, world.monotonic()))

    world.start(lambda: tell("slow", 3))
    quick = world.start(lambda: tell("quick", 2))
    world.call_at(3.5, lambda: world.kill(quick))
    world.run()
    assert told == [("quick", 2), ("slow", 3), ("slow", 6)]
    assert quick.ended


def test_what_fails_in_a_process_fails_the_world() -> None:
    world = World()
    world.start(lambda: world.sleep(10))
    world.start(lambda: [][0])
    with pytest.raises(IndexError):
        world.run()


def test_the_table_replaces_the_last_one(tmp_path) -> None:
    page = tmp_path / "scale.md"
    page.write_text("before\n<!-- simulation -->\nold\n<!-- simulation -->\nafter\n")
    write_page(page, "new \\1")
    assert page.read_text() == "before\n<!-- simulation -->\nnew \\1\n<!-- simulation -->\nafter\n"
