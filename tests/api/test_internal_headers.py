"""Who is believed to be a replica, and that no other request can be harmed by its name."""

import asyncio
from typing import Any

import pytest
from starlette.types import Send

from serve_app.api.forwarding import FORWARDED_HEADER, INTERNAL_HEADERS, ClusterSecret
from serve_app.api.lending import BORROWED_HEADER, PLAN_HEADER
from serve_app.core.generation import GENERATION
from tests.api.asgi import Call, FakeEngine, answers, call
from tests.builders import a_gate, an_edge, count, forwarded_by_a_replica, some_settings
from tests.virtual_time import run_virtual, virtual

DONE = {"object": "chat.completion", "choices": []}
FORGED = [
    [(FORWARDED_HEADER, b"1")],
    [(b"X-Tierserve-Relayed", b"1")],
    [(FORWARDED_HEADER, b"")],
    [(FORWARDED_HEADER, b"\xff" * 64)],
    [(FORWARDED_HEADER, ClusterSecret().mark("from-a-peer").encode())],
    [(PLAN_HEADER, b"{}"), (FORWARDED_HEADER, b"true")],
    [(BORROWED_HEADER, b"chat x")],
    [(FORWARDED_HEADER, b"0"), *forwarded_by_a_replica()],
]


@pytest.mark.parametrize("headers", FORGED)
def test_a_client_that_says_it_is_a_replica_is_served_and_counted_as_a_client(
    headers: list[tuple[bytes, bytes]],
) -> None:
    engine = FakeEngine(answers(DONE))
    edge = an_edge(engine)
    made = run_virtual(call(edge, "", {"prompt": "hi"}, headers=headers))
    assert made.status == 200
    assert count(edge, "requests_total", status="200") == 1
    assert INTERNAL_HEADERS.isdisjoint(name.lower() for name, _ in engine.scopes[0]["headers"])


@virtual
async def test_a_replicas_mark_is_of_one_request_and_of_no_other() -> None:
    edge = an_edge(FakeEngine(answers(DONE)))
    await call(edge, "", {"prompt": "hi"}, headers=forwarded_by_a_replica("a"))
    assert count(edge, "requests_total") == 0
    (_, mark) = forwarded_by_a_replica("a")[1]
    stolen = [(b"x-request-id", b"b"), (FORWARDED_HEADER, mark)]
    await call(edge, "", {"prompt": "hi"}, headers=stolen)
    assert count(edge, "requests_total") == 1


@virtual
async def test_two_requests_with_one_id_are_two_in_the_engine() -> None:
    engine = FakeEngine(answers(DONE, after_s=5.0))
    edge = an_edge(engine, gate=a_gate(slots=4))
    header = [(b"x-request-id", b"mine")]
    calls = [Call(edge, "", {"prompt": "hi"}, headers=header) for _ in range(3)]
    await asyncio.sleep(1)
    ids = [dict(scope["headers"])[b"x-request-id"] for scope in engine.scopes]
    assert len(set(ids)) == 3
    assert all(name.startswith(b"mine") for name in ids)
    await asyncio.gather(*(made.done for made in calls))
    await call(edge, "", {"prompt": "hi"}, headers=header)
    assert dict(engine.scopes[-1]["headers"])[b"x-request-id"] == b"mine"


@virtual
async def test_to_say_that_one_retries_gives_nothing_to_who_was_not_refused() -> None:
    edge = an_edge(
        FakeEngine(answers(DONE, after_s=10.0)), gate=a_gate(slots=1, max_queued_requests=2)
    )
    running = [Call(edge, "", {"prompt": str(i)}) for i in range(3)]
    await asyncio.sleep(0.1)
    retries = [(b"x-stainless-retry-count", b"1")]
    pushing = await call(edge, "", {"prompt": "first time"}, headers=retries)
    assert pushing.status == 429
    await asyncio.gather(*(made.done for made in running))


# --- the prefix cache


def salts_of(isolated: bool, *headers: list[tuple[bytes, bytes]]) -> list[str | None]:
    """The salts that the engine is given for requests with these headers."""
    given: list[str | None] = []

    async def answering(payload: dict[str, Any], send: Send) -> None:
        generation = GENERATION.get()
        assert generation is not None
        given.append(generation.cache_salt)
        await answers(DONE)(payload, send)

    settings = some_settings().model_copy(update={"prefix_cache_isolation": isolated})
    edge = an_edge(FakeEngine(answering), settings=settings)
    for each in headers:
        run_virtual(call(edge, "", {"prompt": "hi"}, headers=each))
    return given


ANNA, BEN = [(b"authorization", b"Bearer anna")], [(b"x-api-key", b"ben")]


def test_prefixes_are_shared_unless_the_tier_keeps_clients_apart() -> None:
    assert salts_of(False, ANNA, BEN, []) == [None, None, None]


def test_clients_that_are_kept_apart_find_their_own_prefixes_only() -> None:
    anna, again, ben, nobody, nobody_else = salts_of(True, ANNA, ANNA, BEN, [], [])
    assert anna == again
    assert len({anna, ben, nobody, nobody_else, None}) == 5


@virtual
async def test_no_header_of_a_client_reaches_vllms_controls() -> None:
    engine = FakeEngine(answers(DONE))
    sent = [
        (b"X-Vllm-Priority", b"-100"),
        (b"x-data-parallel-rank", b"7"),
        (b"X-Session-ID", b"another's"),
        (b"authorization", b"Bearer secret"),
        (b"traceparent", b"00-1-1-01"),
    ]
    for path in ("", "/tokenize"):
        await call(an_edge(engine), path, {"prompt": "hi"}, headers=sent)
        kept = {name.lower() for name, _ in engine.scopes[-1]["headers"]}
        assert kept == {b"traceparent", b"x-request-id", b"content-type", b"content-length"}
