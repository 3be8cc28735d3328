"""What replicas that are late said last stands for them; what is gone is gone."""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from tests.virtual_time import now_s, virtual

TIMEOUT_S, KEEP_S = 2.0, 30.0
# Ray 2.60 itself gives pydantic this keyword when its config is imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using extra keyword arguments on `Field`:DeprecationWarning"
)


class Replicas:
    """Each answers with the number of times that it was asked, after its own time; or fails."""

    def __init__(self, **after_s: float) -> None:
        self.after_s = after_s
        self.fault: Exception | None = None
        self.dead: set[str] = set()
        self.asked = 0

    async def __call__(self) -> Mapping[str, Awaitable[Any]]:
        if self.fault is not None:
            raise self.fault
        self.asked += 1
        return {name: self._answer(name, self.asked) for name in self.after_s}

    def _answer(self, name: str, number: int) -> Awaitable[Any]:
        async def answer() -> str:
            await asyncio.sleep(self.after_s[name])
            if name in self.dead:
                raise ActorDiedError
            return f"{name}{number}"

        return answer()


def asking(replicas: Replicas) -> Any:
    from serve_app.serving.replica_answers import ReplicaAnswers

    return ReplicaAnswers(replicas, TIMEOUT_S, KEEP_S, now_s)


async def reported(answers: Any) -> list[tuple[Any, float, bool]]:
    await asyncio.sleep(0.01)  # no question at the moment of an answer
    return [(kept.value, round(kept.age_s, 1), kept.stale) for kept in await answers.ask()]


@virtual
async def test_one_late_replica_takes_nothing_from_the_others() -> None:
    replicas = Replicas(a=0.1, b=0.1)
    answers = asking(replicas)
    assert await reported(answers) == [("a1", 0.0, False), ("b1", 0.0, False)]
    replicas.after_s["b"] = 5.0
    assert await reported(answers) == [("a2", 1.9, False), ("b1", 2.0, True)]


@virtual
async def test_a_late_answer_is_taken_when_it_comes() -> None:
    replicas = Replicas(a=3.0)
    answers = asking(replicas)
    assert await reported(answers) == []
    await asyncio.sleep(2.0)
    replicas.after_s["a"] = 9.0
    assert await reported(answers) == [("a1", 3.0, True)]


@virtual
async def test_a_replica_that_says_nothing_is_dropped_in_the_end() -> None:
    replicas = Replicas(a=0.1)
    answers = asking(replicas)
    await reported(answers)
    replicas.after_s["a"] = 1000.0
    await asyncio.sleep(KEEP_S - 3.0)
    assert await reported(answers) == [("a1", 29.0, True)]
    assert await reported(answers) == []
    assert await reported(answers) == []


@virtual
async def test_a_replica_that_serve_has_no_more_or_that_died_is_gone_at_once() -> None:
    replicas = Replicas(a=0.1, b=0.1, c=0.1)
    answers = asking(replicas)
    assert len(await reported(answers)) == 3
    del replicas.after_s["a"]
    replicas.dead.add("b")
    assert await reported(answers) == [("c2", 0.0, False)]


@virtual
async def test_a_tier_that_is_gone_has_no_replicas_and_one_that_cannot_be_asked_keeps_them() -> (
    None
):
    from ray.serve.exceptions import RayServeException

    replicas = Replicas(a=0.1)
    answers = asking(replicas)
    await reported(answers)
    replicas.fault = TimeoutError()
    assert await reported(answers) == [("a1", 0.0, True)]
    replicas.fault = RayServeException()
    assert await reported(answers) == []
