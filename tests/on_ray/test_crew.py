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


class FakeGroup:
    """A worker on each node of a list."""

    def __init__(self, nodes: list[str]) -> None:
        self.ended: list[int] = []
        self.workers = [
            SimpleNamespace(
                metadata=SimpleNamespace(hostname="host", pid=number, node_id=node), placement_group_bundle_index=number
            )
            for number, node in enumerate(nodes)
        ]
        group = SimpleNamespace(placement_group="places")
        self._state = SimpleNamespace(placement_group_handle=group, workers=self.workers)

    def get_workers(self) -> Any:
        return self.workers

    def get_worker_group_state(self) -> Any:
        return self._state

    def get_replica_groups(self) -> Any:
        return [SimpleNamespace(shutdown=lambda number=number: self.ended.append(number)) for number in range(9)]

    def get_worker_group_context(self) -> Any:
        return SimpleNamespace(resources_per_worker={"CPU": 1.0})


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nodes that Ray takes for alive, to be changed; the first two places are on node a, the others on b."""
    nodes = ["a", "b"]
    listed = lambda: [{"NodeID": node, "Alive": True, "Resources": {"CPU": 2.0}} for node in nodes]  # noqa: E731
    monkeypatch.setattr("ray.nodes", listed)
    places = {number: "a" if number < 2 else "b" for number in range(9)}
    monkeypatch.setattr(crew, "placement_group_table", lambda group: {"bundles_to_node_id": places})
    return nodes


def make_crew(
    monkeypatch: pytest.MonkeyPatch, queue: FakeQueue, group: FakeGroup, losses: int = 9, size: int | None = None
) -> tuple[Any, list[int]]:
    """A crew that has begun, and the bundles in which it starts workers."""
    begun: list[int] = []

    def begin(self: Crew, place: Any) -> Any:
        begun.append(place.bundle)
        return SimpleNamespace(place=place, actor=None, metadata=None)

    monkeypatch.setattr(Crew, "_begin", begin)
    monkeypatch.setattr(crew.ray, "wait", lambda references, timeout: ([], references))
    monkeypatch.setattr(Search, "look_for", lambda self, wanted, needs, now: None)
    made = Crew(queue, size=size or len(group.workers), losses=losses)
    made.after_worker_group_start(group)
    return made, begun


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
    monkeypatch: pytest.MonkeyPatch, alive: list[str], error: Exception, told: list[Any]
) -> None:
    """The job of one that is not known to be dead is given to others only when a successor is in its place."""
    queue, group = FakeQueue(waiting=len(told)), FakeGroup(["a", "a", "b"])
    made, begun = make_crew(monkeypatch, queue, group)
    for _ in range(2):  # once is enough
        assert states(poll(made, None, error, None)) == "rfr"
        assert (group.ended, queue.told, begun) == ([1], told, [1])


def test_a_worker_that_may_only_be_out_of_reach_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, alive: list[str]
) -> None:
    queue, group = FakeQueue(waiting=5), FakeGroup(["a", "b"])
    made, begun = make_crew(monkeypatch, queue, group)
    assert states(poll(made, None, UNAVAILABLE)) == "rr"
    assert (group.ended, queue.told, begun) == ([], [], [])


def test_jobs_of_a_lost_node_are_not_blamed_and_its_places_manned_when_there_is_a_node(
    monkeypatch: pytest.MonkeyPatch, alive: list[str]
) -> None:
    queue, group = FakeQueue(waiting=9), FakeGroup(["a", "a", "b"])
    made, begun = make_crew(monkeypatch, queue, group)
    alive.remove("a")
    assert states(poll(made, DEAD, DEAD, None)) == "ffr"
    assert sorted(queue.told) == [(["host:0"], False), (["host:1"], False)]
    assert begun == []
    alive.append("a")
    poll(made, DEAD, DEAD, None)
    assert sorted(begun) == [0, 1]


def test_no_more_workers_are_started_than_jobs_wait(monkeypatch: pytest.MonkeyPatch, alive: list[str]) -> None:
    queue, group = FakeQueue(waiting=0), FakeGroup(["a", "a", "b"])
    made, begun = make_crew(monkeypatch, queue, group)
    poll(made, DEAD, DEAD, None)
    assert begun == []
    queue.waiting = 1
    poll(made, DEAD, DEAD, None)
    poll(made, DEAD, DEAD, None)  # it is still starting
    assert len(begun) == 1


def test_room_on_nodes_that_joined_is_looked_for_and_manned(monkeypatch: pytest.MonkeyPatch, alive: list[str]) -> None:
    made, begun = make_crew(monkeypatch, FakeQueue(waiting=9), FakeGroup(["a", "b"]), size=8)
    wanted: list[int] = []

    def look_for(self: Search, count: int, needs: dict[str, float], now: float) -> Any:
        wanted.append(count)
        return SimpleNamespace(bundle_count=count) if count > 1 else None

    monkeypatch.setattr(Search, "look_for", look_for)
    poll(made, None, None)
    assert (wanted, begun) == ([2], [])  # two nodes have room for two each, and two workers are there
    poll(made, None, None)
    assert (wanted, begun) == ([2, 0], [0, 1])


def test_ray_train_hears_when_none_is_left_or_too_many_were_lost(
    monkeypatch: pytest.MonkeyPatch, alive: list[str]
) -> None:
    made, _ = make_crew(monkeypatch, FakeQueue(), FakeGroup(["a", "b"]))
    assert states(poll(made, DEAD, DEAD)) == "ee"
    made, _ = make_crew(monkeypatch, FakeQueue(), FakeGroup(["a", "b"]), losses=0)
    assert states(poll(made, DEAD, None)) == "er"


def test_when_all_are_ended_the_queue_hears_of_it_afterwards(monkeypatch: pytest.MonkeyPatch, alive: list[str]) -> None:
    queue, group = FakeQueue(), FakeGroup(["a", "b"])
    made = TellQueue(queue)
    made.after_worker_group_start(group)
    made.before_worker_group_shutdown(group)
    assert queue.told == []
    made.after_worker_group_shutdown(SimpleNamespace())
    assert queue.told == [(["host:0", "host:1"], False)]


def test_a_silent_worker_has_ended_when_all_have(monkeypatch: pytest.MonkeyPatch, alive: list[str]) -> None:
    queue, group = FakeQueue(), FakeGroup(["a", "b"])
    made, _ = make_crew(monkeypatch, queue, group)
    monkeypatch.setattr(crew.ray, "kill", lambda actor: None)
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


class FakeRoom:
    """Placement groups on a cluster with room for so many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room, self.asked, self.removed = room, [], []
        monkeypatch.setattr(crew, "placement_group", self.ask)
        monkeypatch.setattr(crew, "remove_placement_group", lambda group: self.removed.append(group.bundle_count))
        monkeypatch.setattr(crew, "placement_group_table", self.tell)

    def ask(self, bundles: list[dict[str, float]]) -> Any:
        self.asked.append(len(bundles))
        return SimpleNamespace(bundle_count=len(bundles))

    def tell(self, group: Any) -> dict[str, str]:
        return {"state": "CREATED" if group.bundle_count <= self.room else "PENDING"}


def search(made: Search, wanted: int, seconds: range) -> list[int]:
    found = [made.look_for(wanted, {"CPU": 1.0}, float(now)) for now in seconds]
    return [group.bundle_count for group in found if group is not None]


def test_room_for_all_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    room = FakeRoom(monkeypatch, 8)
    assert search(Search(), 8, range(1)) == [8]
    assert (room.asked, room.removed) == ([8], [])


def test_where_there_is_none_for_all_half_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    room = FakeRoom(monkeypatch, 3)
    assert search(Search(), 8, range(int(2 * ROOM_SECONDS) + 3)) == [2]
    assert (room.asked, room.removed) == ([8, 4, 2], [8, 4])


def test_room_that_others_hold_is_looked_for_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    room, made = FakeRoom(monkeypatch, 0), Search()
    rounds = int(ROOM_SECONDS + PAUSE_SECONDS)
    assert search(made, 2, range(rounds)) == []
    assert room.asked == [2, 1]
    search(made, 2, range(rounds, rounds + 20))
    assert room.asked[:3] == [2, 1, 2]
    made.stop()
    assert len(room.removed) == len(room.asked)


def test_room_that_is_no_longer_wanted_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    room, made = FakeRoom(monkeypatch, 0), Search()
    search(made, 4, range(2))
    assert search(made, 0, range(2, 3)) == []
    assert (room.asked, room.removed) == ([4], [4])
