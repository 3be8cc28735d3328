"""Which nodes are looked at, and what becomes of a look that nobody answers."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RpcError

from serve_app.autoscaling import prestart

# Ray 2.60 itself gives pydantic this keyword when its config is imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)


def test_a_node_that_is_being_drained_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    _cluster(monkeypatch, {"a": {"GPU": 1.0}, "b": {"GPU": 1.0}, "c": {}}, lambda **_: {"b": 123})
    assert prestart._free_gpus() == {"a": 1.0, "c": 0.0}


def test_a_look_that_nobody_answers_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(**_: float) -> dict[str, int]:
        raise RpcError("no answer")

    started: list[str] = []
    prestarter = prestart.Prestarter(start=started.append)
    _cluster(monkeypatch, {"a": {"GPU": 1.0}}, lambda **_: {})
    prestarter.look(1.0, now_s=0.0)
    _cluster(monkeypatch, {"a": {"GPU": 1.0}}, silent)
    prestarter.look(1.0, now_s=10.0)
    assert not started
    _cluster(monkeypatch, {"a": {"GPU": 1.0}}, lambda **_: {})
    prestarter.look(1.0, now_s=20.0)
    assert started == ["a"]


def _cluster(
    monkeypatch: pytest.MonkeyPatch, resources: Mapping[str, Mapping[str, float]], draining: Any
) -> None:
    gcs = SimpleNamespace(get_draining_nodes=draining)
    monkeypatch.setattr("ray._private.worker.global_worker", SimpleNamespace(gcs_client=gcs))
    monkeypatch.setattr("ray._private.state.available_resources_per_node", lambda: resources)
