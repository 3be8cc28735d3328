"""Who gets in: keys at the edge of a tier and at the root, before anything else is read."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from serve_app.api.access import presented_key, read_flow, written_flow
from serve_app.api.edge import TierEdge
from serve_app.api.forwarding import FLOW_HEADER, FORWARDED_HEADER
from serve_app.api.routes import TIER_ROUTES, WEB_ROUTES, Callers, Route
from serve_app.core.access.access_key import AccessKey, Priority
from serve_app.core.admission.fairness import ANONYMOUS, Flow
from serve_app.core.tiers import Tier
from tests.api.asgi import Call, FakeEngine, answers, call
from tests.api.fake_keys import (
    ADMIN,
    TEAM,
    WRONG,
    FakeKeys,
    FakeQuotas,
    a_fake_desk,
    bearer,
)
from tests.api.web_client import a_client
from tests.builders import SECRET, an_edge, count, idle
from tests.virtual_time import run_virtual, virtual

HI = {"prompt": "hi"}
MESSAGE = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
DONE = {"object": "chat.completion", "choices": []}


def a_guarded_edge(engine: FakeEngine, **desk: object) -> TierEdge:
    edge = an_edge(engine)
    edge.access = a_fake_desk(on_refused=lambda r: edge.metrics.keys_refused.labels(reason=r).inc())
    for name, value in desk.items():
        setattr(edge.access, name, value)
    return edge


# --- what is a key


@pytest.mark.parametrize(
    ("headers", "presented"),
    [
        ([], None),
        ([(b"authorization", b"Bearer ts-a")], b"ts-a"),
        ([(b"Authorization", b"bearer  ts-a ")], b"ts-a"),
        ([(b"x-api-key", b"ts-a")], b"ts-a"),
        # Claude Code and others send a placeholder beside the key.
        ([(b"authorization", b"Bearer dummy"), (b"x-api-key", b"ts-a")], b"ts-a"),
        ([(b"authorization", b"Bearer ts-a"), (b"x-api-key", b"dummy")], b"ts-a"),
        ([(b"authorization", b"Basic dXNlcg==")], b"Basic dXNlcg=="),
        ([(b"authorization", b"Bearer ")], None),
        ([(b"x-api-key", b"")], None),
        ([(b"authorization", b"Bearer " + b"x" * 10_000)], b"x" * 256),
    ],
)
def test_a_key_comes_as_openais_or_anthropics_clients_send_it(
    headers: list[tuple[bytes, bytes]], presented: bytes | None
) -> None:
    assert presented_key({"type": "http", "headers": headers}) == presented


# --- a tier


@pytest.mark.parametrize(
    "headers", [[], bearer(WRONG), bearer(b"sk-123"), [(b"x-api-key", b"\xff")]]
)
def test_without_a_valid_key_nothing_of_a_request_is_read(
    headers: list[tuple[bytes, bytes]],
) -> None:
    engine = FakeEngine(answers(DONE))
    edge = a_guarded_edge(engine)
    made = run_virtual(call(edge, "", body=b"{no json", headers=headers))
    assert (made.status, made.error["code"]) == (401, "invalid_api_key")
    assert made.error["type"] == "authentication_error"
    assert made.headers["www-authenticate"] == "Bearer"
    assert engine.asked == []
    assert idle(edge.gate)
    assert count(edge, "keys_refused_total") == 1
    assert count(edge, "requests_total", status="401") == 1


@virtual
async def test_anthropics_clients_read_refusals_in_their_form() -> None:
    made = await call(a_guarded_edge(FakeEngine(answers(DONE))), "/v1/messages", MESSAGE)
    body = json.loads(made.text)
    assert (body["type"], body["error"]["type"]) == ("error", "authentication_error")


@pytest.mark.parametrize("headers", [bearer(TEAM), [(b"x-api-key", TEAM)]])
def test_with_its_key_a_request_is_served_and_the_engine_never_sees_the_key(
    headers: list[tuple[bytes, bytes]],
) -> None:
    engine = FakeEngine(answers(DONE))
    assert run_virtual(call(a_guarded_edge(engine), "", HI, headers=headers)).status == 200
    assert TEAM not in b"".join(value for _, value in engine.scopes[0]["headers"])


@virtual
async def test_a_key_of_another_tier_is_refused_with_those_that_it_may_use() -> None:
    keys = FakeKeys({TEAM: AccessKey("team", frozenset({Tier.REASONING}))})
    edge = a_guarded_edge(FakeEngine(answers(DONE)), keys=keys)
    made = await call(edge, "", HI, headers=bearer(TEAM))
    assert (made.status, made.error["code"]) == (403, "tier_not_allowed")
    assert made.error["type"] == "permission_error"
    assert "It may use: reasoning." in made.error["message"]


@virtual
async def test_until_the_keys_are_read_nobody_gets_in_and_retry_after_is_sent() -> None:
    edge = a_guarded_edge(FakeEngine(answers(DONE)), keys=FakeKeys(loaded=False))
    made = await call(edge, "", HI, headers=bearer(TEAM))
    assert (made.status, made.error["code"]) == (503, "ledger_unavailable")
    assert made.headers["retry-after"] == "2"


@virtual
async def test_anonymous_requests_pass_where_they_are_allowed_but_no_wrong_key() -> None:
    edge = a_guarded_edge(FakeEngine(answers(DONE)), allow_anonymous=True)
    assert (await call(edge, "", HI)).status == 200
    assert (await call(edge, "", HI, headers=bearer(WRONG))).status == 401


@pytest.mark.parametrize("route", TIER_ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_each_route_of_a_tier_asks_for_a_key_unless_it_is_for_anyone(route: Route) -> None:
    edge = a_guarded_edge(FakeEngine(answers(DONE)))
    made = run_virtual(call(edge, route.path, HI, method=route.method))
    assert (made.status == 401) is (route.callers is not Callers.ANYONE)


@virtual
async def test_what_a_replica_forwards_is_not_asked_again_and_keeps_its_flow() -> None:
    edge = a_guarded_edge(FakeEngine(answers(DONE, after_s=1.0)))
    flow = Flow("team", 2.0, Priority.BACKGROUND)
    made = Call(edge, "", HI, headers=forwarded(flow))
    await asyncio.sleep(0.5)
    assert [entry.flow for entry in edge.gate._running] == [flow]
    await made.done
    assert made.status == 200


def forwarded(flow: Flow, signed: Flow | None = None) -> list[tuple[bytes, bytes]]:
    mark = SECRET.mark("r1", written_flow(signed or flow)).encode()
    return [
        (b"x-request-id", b"r1"),
        (FORWARDED_HEADER, mark),
        (FLOW_HEADER, written_flow(flow)),
    ]


@virtual
async def test_a_flow_that_is_not_signed_makes_the_request_a_clients_own() -> None:
    edge = a_guarded_edge(FakeEngine(answers(DONE)))
    made = await call(edge, "", HI, headers=forwarded(Flow("a"), signed=Flow("b")))
    assert made.status == 401


@pytest.mark.parametrize(
    "value", [None, b"", b"[]", b'["a"]', b'["a",1,"x"]', b'["a","b","interactive"]', b"\xff"]
)
def test_a_flow_that_cannot_be_read_is_nobodys(value: bytes | None) -> None:
    assert read_flow(value) == ANONYMOUS


def test_a_flow_is_read_as_it_was_written() -> None:
    flow = Flow("team@example.org", 0.5, Priority.BACKGROUND)
    assert read_flow(written_flow(flow)) == flow


def test_neither_a_right_nor_a_wrong_key_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    edge = a_guarded_edge(FakeEngine(answers(DONE)), quotas=FakeQuotas())
    edge.settings = edge.settings.model_copy(update={"log_prompts": True})
    for key in (TEAM, WRONG):
        run_virtual(call(edge, "", HI, headers=bearer(key)))
        run_virtual(call(edge, "", body=b"{", headers=bearer(key)))
    said = str([record.__dict__ for record in caplog.records])
    assert TEAM.decode() not in said
    assert WRONG.decode() not in said


# --- the root


async def at_root(
    path: str, key: bytes | None = None, *, method: str = "GET", **body: Any
) -> httpx.Response:
    async with a_client(access=a_fake_desk(tier=None)) as client:
        headers = {} if key is None else {"authorization": f"Bearer {key.decode()}"}
        return await client.request(method, path, headers=headers, **body)


@pytest.mark.parametrize("route", WEB_ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_each_route_at_the_root_asks_for_the_key_that_the_table_says(route: Route) -> None:
    path = route.path.replace("{model}", "chat")
    without = (await at_root(path, method=route.method)).status_code
    users = (await at_root(path, TEAM, method=route.method)).status_code
    assert (without == 401) is (route.callers is not Callers.ANYONE)
    assert (users == 403) is (route.callers is Callers.OPERATORS)
    assert users != 401


@pytest.mark.parametrize("path", ["/metrics", "/api/tiers"])
async def test_operators_pages_take_an_admin_key(path: str) -> None:
    assert (await at_root(path, ADMIN)).status_code == 200
    refused = (await at_root(path, TEAM)).json()["error"]
    assert refused["code"] == "admin_key_required"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("HEAD", "/metrics"),
        ("GET", "http://web//metrics"),
        ("GET", "/v1/v1/models"),
        ("GET", "/v1/models/a/b"),
        ("GET", "/models"),
        ("GET", "/nothing"),
    ],
)
async def test_no_other_spelling_of_a_path_gets_past(method: str, path: str) -> None:
    assert (await at_root(path, method=method)).status_code == 401


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_health_needs_no_key_however_it_is_asked(method: str) -> None:
    assert (await at_root("/healthz", method=method)).status_code == 200


async def test_a_wrong_key_is_refused_at_the_root_before_its_body_is_read() -> None:
    made = await at_root("/v1/chat/completions", WRONG, method="POST", content=b"x" * 10_000)
    assert made.status_code == 401
    assert made.headers["www-authenticate"] == "Bearer"


def test_a_wrong_key_costs_the_edge_little() -> None:
    """Of a second, less than a tenth for a thousand of them; a served request takes more."""
    edge = a_guarded_edge(FakeEngine(answers(DONE)))

    async def flood() -> float:
        began_s = time.process_time()
        for _ in range(500):
            await call(edge, "", HI, headers=bearer(WRONG))
        return time.process_time() - began_s

    assert run_virtual(flood()) < 0.5
