"""Where a worker is pre-started, as GPUs become free and are taken."""

from collections.abc import Mapping, Sequence

from serve_app.core.scaling.prestart import NodeState, next_nodes


def starts(*sights: Mapping[str, float], per_replica: float = 1.0) -> Sequence[list[str]]:
    rooms: dict[str, NodeState] = {}
    started = []
    for sight in sights:
        rooms, due = next_nodes(rooms, sight, per_replica)
        started.append(due)
    return started


def test_a_gpu_that_stays_free_gets_one_process() -> None:
    assert starts({"a": 1}, {"a": 1}, {"a": 1}) == [[], ["a"], []]


def test_a_gpu_that_the_next_replica_takes_at_once_gets_none() -> None:
    assert starts({"a": 0}, {"a": 1}, {"a": 0}, {"a": 0}) == [[], [], [], []]


def test_a_gpu_that_is_taken_and_free_again_gets_another() -> None:
    assert starts({"a": 1}, {"a": 1}, {"a": 0}, {"a": 1}, {"a": 1})[-1] == ["a"]


def test_of_several_gpus_each_replica_takes_the_process() -> None:
    sights = [{"a": 4}, {"a": 4}, {"a": 3}, {"a": 3}, {"a": 4}, {"a": 4}]
    assert starts(*sights) == [[], ["a"], [], ["a"], [], []]


def test_a_rest_that_is_too_small_for_a_replica_is_no_room() -> None:
    assert starts({"a": 0.4}, {"a": 0.4}, per_replica=0.45) == [[], []]
    assert starts({"a": 0.5}, {"a": 0.5}, per_replica=0.45) == [[], ["a"]]


def test_a_node_that_went_and_came_again_begins_anew() -> None:
    assert starts({"a": 1}, {"a": 1}, {}, {"a": 1}, {"a": 1}) == [[], ["a"], [], [], ["a"]]
