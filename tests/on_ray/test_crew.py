"""The pool's workers while nodes come and go: the callback alone, with a worker group and room that are not there.

Real nodes and kills: tests/faults/test_pool_faults.py and test_nodes.py.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.worker_group import WorkerStatus

from raydistill.on_ray import crew
from raydistill.on_ray.crew import PAUSE_SECONDS, ROOM_SECONDS, Crew, Search
from raydistill.on_ray.lost_workers import TellQueue

DEAD = WorkerHealthCheckFailedError("no answer", ActorDiedError())
UNAVAILABLE = WorkerHealthCheckFailedError("no answer", ActorUnavailableError("Socket closed", b"\1" * 16))
FROZEN = WorkerHealthCheckTimeoutError("hanging")


class FakeQueue:
    def __init__(self, waiting: int = 0) -> None:
        self.waiting = waiting
        self.told: list[tuple[list[str], bool]] = []

    def dismiss(self, workers: list[str], blamed: bool) -> None:
        self.told.append((list(workers), bool(blamed)))

    def count_waiting(self) -> int:
        return self.waiting


class FakePlaces:
    def __init__(self, nodes: list[str]) -> None:
        self.groups = list(nodes)
        self.asked: list[int] = []
        self.given_up: list[str] = []

    def ask(self, count: int, needs: dict[str, float]) -> list[str]:
        self.asked.append(count)
        return [f"place {len(self.asked)}.{number}" for number in range(count)]

    def give_up(self, place: str) -> None:
        self.given_up.append(place)


class FakeGroup:
    """A worker on each node of a list; the place of each is called as its node."""

    def __init__(self, nodes: list[str]) -> None:
        self.ended: list[int] = []
        self.begun: list[str] = []
        self.places = FakePlaces(nodes)
        self.workers = [
            SimpleNamespace(
                metadata=SimpleNamespace(hostname="host", pid=number, node_id=node[0]),
                placement_group_bundle_index=number,
            )
            for number, node in enumerate(nodes)
        ]

    def get_workers(self) -> Any:
        return self.workers

    def get_worker_group_state(self) -> Any:
        return SimpleNamespace(placement_group_handle=self.places, workers=self.workers)

    def get_replica_groups(self) -> Any:
        return [SimpleNamespace(shutdown=lambda number=number: self.ended.append(number)) for number in range(9)]

    def get_worker_group_context(self) -> Any:
        return SimpleNamespace(resources_per_worker={"CPU": 1.0})

    def begin(self, place: str) -> Any:
        self.begun.append(place)
        return SimpleNamespace(place=place, actor=None, metadata=None)


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nodes that Ray takes for alive, to be changed, with room for two workers each. Places a1 and a2 are on node a."""
    nodes = ["a", "b"]
    listed = lambda: [{"NodeID": node, "Alive": True, "Resources": {"CPU": 2.0}} for node in nodes]  # noqa: E731
    monkeypatch.setattr("ray.nodes", listed)
    monkeypatch.setattr(crew, "is_there", lambda place, alive: place[0] in alive)
    monkeypatch.setattr(crew.ray, "wait", lambda references, timeout: ([], references))
    monkeypatch.setattr(crew.ray, "kill", lambda actor: None)
    return nodes


def make_crew(queue: FakeQueue, group: FakeGroup, losses: int = 9, size: int | None = None) -> Any:
    made = Crew(queue, size=size or len(group.workers), losses=losses)
    made.after_worker_group_start(group)
    return made


def poll(made: Crew, *errors: Exception | None) -> list[WorkerStatus]:
    statuses = [WorkerStatus(running=error is None or error is FROZEN, error=error) for error in errors]
    made.after_worker_group_poll_status(SimpleNamespace(worker_statuses=dict(enumerate(statuses))))
    return statuses


def states(statuses: list[WorkerStatus]) -> str:
    """r running, f finished, e an error that Ray Train hears of."""
    return "".join("e" if status.error else "r" if status.running else "f" for status in statuses)


@pytest.mark.parametrize(
    ("error", "told"), [(DEAD, [(["host:1"], True)]), (FROZEN, []), (ValueError("of the worker's function"), [])]
)
def test_a_lost_worker_is_ended_told_and_replaced_and_the_others_work_on(
    alive: list[str], error: Exception, told: list[Any]
) -> None:
    """The job of one that is not known to be dead is given to others only when a successor is in its place."""
    queue, group = FakeQueue(waiting=len(told)), FakeGroup(["a1", "a2", "b1"])
    made = make_crew(queue, group)
    for _ in range(2):  # once is enough
        assert states(poll(made, None, error, None)) == "rfr"
        assert (group.ended, queue.told, group.begun) == ([1], told, ["a2"])


def test_a_worker_that_may_only_be_out_of_reach_is_left_alone(alive: list[str]) -> None:
    queue, group = FakeQueue(waiting=5), FakeGroup(["a1", "b1"])
    assert states(poll(make_crew(queue, group), None, UNAVAILABLE)) == "rr"
    assert (group.ended, queue.told, group.begun) == ([], [], [])


def test_jobs_of_a_lost_node_are_not_blamed_and_others_found_for_its_places(alive: list[str]) -> None:
    queue, group = FakeQueue(waiting=9), FakeGroup(["a1", "a2", "b1", "b2"])
    made = make_crew(queue, group)
    alive.remove("a")
    assert states(poll(made, DEAD, DEAD, None, None)) == "ffrr"
    assert sorted(queue.told) == [(["host:0"], False), (["host:1"], False)]
    assert sorted(group.places.given_up) == ["a1", "a2"]
    assert (group.begun, group.places.asked) == ([], [])
    alive.append("p")  # a node with room for two
    poll(made, DEAD, DEAD, None, None)
    poll(made, DEAD, DEAD, None, None)
    assert group.places.asked == [2]
    assert group.begun == ["place 1.0", "place 1.1"]


def test_a_worker_whose_node_is_lost_while_it_starts_is_begun_elsewhere(alive: list[str]) -> None:
    queue, group = FakeQueue(waiting=1), FakeGroup(["a1", "b1"])
    made = make_crew(queue, group)
    poll(made, DEAD, None)
    alive[:] = ["b", "p"]
    for _ in range(3):
        poll(made, DEAD, None)
    assert (group.places.given_up, group.begun) == (["a1"], ["a1", "place 1.0"])


def test_no_more_workers_are_started_than_jobs_wait(alive: list[str]) -> None:
    queue, group = FakeQueue(waiting=0), FakeGroup(["a1", "a2", "b1"])
    made = make_crew(queue, group)
    poll(made, DEAD, DEAD, None)
    assert group.begun == []
    queue.waiting = 1
    poll(made, DEAD, DEAD, None)
    poll(made, DEAD, DEAD, None)  # it is still starting
    assert len(group.begun) == 1


@pytest.mark.parametrize(("size", "waiting", "asked"), [(8, 9, [2]), (8, 1, [1]), (3, 9, [1]), (2, 9, []), (8, 0, [])])
def test_nodes_that_joined_are_manned(alive: list[str], size: int, waiting: int, asked: list[int]) -> None:
    """Two nodes have room for two each, and two workers are there."""
    group = FakeGroup(["a1", "b1"])
    made = make_crew(FakeQueue(waiting), group, size=size)
    poll(made, None, None)
    assert group.places.asked == asked


def test_ray_train_hears_when_none_is_left_or_too_many_were_lost(alive: list[str]) -> None:
    assert states(poll(make_crew(FakeQueue(), FakeGroup(["a1", "b1"])), DEAD, DEAD)) == "ee"
    assert states(poll(make_crew(FakeQueue(), FakeGroup(["a1", "b1"]), losses=0), DEAD, None)) == "er"


def test_when_all_are_ended_the_queue_hears_of_it_afterwards(monkeypatch: pytest.MonkeyPatch, alive: list[str]) -> None:
    queue, group = FakeQueue(), FakeGroup(["a", "b"])
    made = TellQueue(queue)
    made.after_worker_group_start(group)
    made.before_worker_group_shutdown(group)
    assert queue.told == []
    made.after_worker_group_shutdown(SimpleNamespace())
    assert queue.told == [(["host:0", "host:1"], False)]


def test_a_silent_worker_has_ended_when_all_have(alive: list[str]) -> None:
    queue, group = FakeQueue(), FakeGroup(["a1", "b1"])
    made = make_crew(queue, group)
    poll(made, FROZEN, None)
    group.workers[0] = group.workers[1]  # another has taken its number, not its place
    made.before_worker_group_shutdown(group)
    made.after_worker_group_shutdown(SimpleNamespace())
    assert queue.told == [(["host:1", "host:1", "host:0"], False)]


@pytest.mark.parametrize(("left", "blamed"), [(["a", "b"], True), (["b"], False)])
def test_of_a_group_that_works_together_a_job_is_to_blame_unless_its_node_was_lost(
    alive: list[str], left: list[str], blamed: bool
) -> None:
    queue, group = FakeQueue(), FakeGroup(["a", "b"])
    made = TellQueue(queue)
    made.after_worker_group_start(group)
    alive[:] = left
    made.after_worker_group_poll_status(SimpleNamespace(errors={0: DEAD}))
    made.before_worker_group_shutdown(group)
    made.after_worker_group_shutdown(SimpleNamespace())
    assert queue.told == [(["host:0", "host:1"], blamed)]


def search(made: Search, wanted: int, seconds: range) -> list[str]:
    return [place for now in seconds for place in made.look_for(wanted, {"CPU": 1.0}, float(now))]


def test_room_is_given_as_it_is_found_and_what_is_not_found_is_given_up(
    monkeypatch: pytest.MonkeyPatch, alive: list[str]
) -> None:
    places, found = FakePlaces([]), {"place 1.0"}
    monkeypatch.setattr(crew, "is_there", lambda place, alive: place in found)
    made = Search(places)
    assert search(made, 3, range(3)) == ["place 1.0"]
    found.add("place 1.2")
    assert search(made, 2, range(3, 4 + int(ROOM_SECONDS))) == ["place 1.2"]
    assert (places.asked, places.given_up) == ([3], ["place 1.1"])


def test_room_that_others_hold_is_looked_for_now_and_then(alive: list[str]) -> None:
    places = FakePlaces([])
    alive.clear()
    made, end = Search(places), int(ROOM_SECONDS + PAUSE_SECONDS)
    assert search(made, 2, range(end)) == []
    assert (places.asked, len(places.given_up)) == ([2], 2)
    search(made, 2, range(end, end + 5))
    assert places.asked == [2, 2]


def test_room_that_is_no_longer_wanted_is_given_back(alive: list[str]) -> None:
    places = FakePlaces([])
    alive.clear()
    made = Search(places)
    search(made, 2, range(2))
    assert search(made, 0, range(2, 3)) == []
    assert len(places.given_up) == 2
    search(made, 1, range(3, 4))  # and may be wanted again
    assert places.asked == [2, 1]
