"""Serve's context in, replicas out; each decision is told once."""

from types import SimpleNamespace
from typing import Any

import pytest

NOW_S = 100.0


def context(*, target: int, queue_depth: float, state: dict[str, Any]) -> Any:
    point = {"running": 8.0, "queue_depth": queue_depth, "slots": 8.0}
    return SimpleNamespace(
        app_name="chat",
        current_time=NOW_S,
        target_num_replicas=target,
        running_replicas=["a"],
        policy_state=state,
        raw_metrics={
            name: {"a": [SimpleNamespace(timestamp=NOW_S, value=value)]}
            for name, value in point.items()
        },
    )


# Ray 2.60 itself gives pydantic this keyword when its config is imported.
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")
def test_a_wish_beyond_the_bounds_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve holds the target at max_replicas, so the same wish comes at every tick."""
    from serve_app.serving import policy

    told: list[str] = []
    monkeypatch.setattr(policy.log, "info", lambda text, *values: told.append(text % values))
    state: dict[str, Any] = {}
    for queue_depth in (9.0, 8.0, 9.0):
        wanted, state = policy.scale_on_queue_depth(
            context(target=1, queue_depth=queue_depth, state=state)
        )
        assert wanted == 3
    assert [line.split(":")[0] for line in told] == ["scale chat to 3"]
