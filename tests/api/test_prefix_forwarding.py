"""Two replicas of a tier on loopback: a conversation goes on where its prompt has been read."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.demand import DemandMeter
from serve_app.api.edge import TierEdge
from serve_app.api.forwarding import PREFIX_HEADER
from serve_app.api.gate import Gate, GateLimits
from serve_app.api.prefix_forwarding import PrefixForwarding, replica_state
from serve_app.api.prefix_reports import PrefixReports
from serve_app.config.prefixes import PrefixConfig
from serve_app.config.tier import TierSettings
from serve_app.core.admission.queue_drain import ServiceTime
from serve_app.core.prefix.replica_choice import STALE_S, ChoiceReason
from serve_app.core.scaling.step_time import StepModel
from serve_app.core.scaling.workload import LearntLengths
from tests.api.asgi import Call, FakeEngine, answers, call
from tests.api.loopback import served
from tests.api.test_forwarding import until
from tests.builders import (
    SECRET,
    an_edge,
    count,
    forwarded_by_a_replica,
    peers,
    some_settings,
)

DONE = {"choices": [], "object": "chat.completion"}
# About 1,500 tokens, of 0.2 ms each.
LONG = "".join(f"Fact number {number} is that it is {number * number}. " for number in range(150))
TOKEN_MS = 0.2


def a_conversation(*turns: str, system: str = LONG) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}]
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": "Yes."}]
    return {"messages": messages[:-1]}


@dataclass
class Replica:
    edge: TierEdge
    engine: FakeEngine
    reports: PrefixReports


def a_replica(name: str, urls: Mapping[str, str], **changed: Any) -> Replica:
    """`urls`: of all replicas, once they are served."""

    async def addresses() -> Mapping[str, str]:
        return {other: url for other, url in urls.items() if other != name}

    settings = some_settings(relay_after_s=0.01, max_body_bytes=65536).model_copy(update=changed)
    meter = DemandMeter(StepModel(1.0, 0.0, TOKEN_MS), LearntLengths(512, 16), time.monotonic, 4)
    gate = Gate(GateLimits(4, 4, 1000.0), ServiceTime(1.0), time.monotonic, meter)
    engine = FakeEngine(answers(DONE))
    edge = an_edge(engine, gate=gate, settings=settings, clock_s=time.monotonic, replica=name)
    reports = PrefixReports(
        name,
        SECRET.key,
        "/api/chat",
        time.monotonic,
        addresses,
        edge.forwarder.status_of,
        replica_state(gate, lambda: edge.hand_over.draining),
        lambda: gate.running_sequences,
        enabled=lambda: edge.settings.prefixes.forward,
    )
    edge.prefixes = PrefixForwarding(
        reports, gate, edge.forwarder, edge.metrics, lambda: edge.settings
    )
    return Replica(edge, engine, reports)


@asynccontextmanager
async def two_replicas(**changed: Any) -> AsyncIterator[tuple[Replica, Replica]]:
    """That have heard of each other. At the end nothing may be left at either gate."""
    urls: dict[str, str] = {}
    a, b = a_replica("a", urls, **changed), a_replica("b", urls, **changed)
    async with served(_mounted(a)) as urls["a"], served(_mounted(b)) as urls["b"]:
        running = [asyncio.create_task(each.reports.run()) for each in (a, b)]
        try:
            if a.edge.settings.prefixes.forward:
                await until(lambda: all(_heard(each) for each in (a, b)))
            yield a, b
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for each in (a, b):
                await each.edge.forwarder.close()
    for each in (a, b):
        assert (each.edge.gate.running_requests, each.edge.gate.queued_requests) == (0, 0)


def _heard(replica: Replica) -> bool:
    return replica.reports.report()["replicas_heard"] == 1


def _mounted(replica: Replica) -> ASGIApp:
    app = replica.reports.behind(replica.edge)

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": "/api/chat"}, receive, send)

    return mounted


async def known(replica: Replica) -> None:
    """What the other one has read is known here, and that it is read."""
    peers = replica.reports._peers.values()
    await until(lambda: any(len(peer.cached) and peer.state.wait_s == 0 for peer in peers))


def all_known(replica: Replica, other: Replica) -> bool:
    """The other one knows of all that this one has read, and that it is read."""
    peer = other.reports._peers[replica.edge.forwarder.replica]
    return peer.cached.all() == replica.reports.own.all() and peer.state.wait_s == 0


def chosen(replica: Replica, reason: str) -> float:
    return count(replica.edge, "prefix_choices_total", reason=reason)


async def test_the_next_turn_runs_where_the_first_one_did() -> None:
    async with two_replicas() as (a, b):
        await call(a.edge, payload=a_conversation("One?"))
        await known(b)
        turn = await call(b.edge, payload=a_conversation("One?", "Two?"))
        assert turn.status == 200
        assert (len(a.engine.asked), len(b.engine.asked)) == (2, 0)
        assert chosen(b, "found") == count(b.edge, "relayed_total") == 1
        assert count(b.edge, "prefix_saved_tokens_total") > 1000
        # Counted once, where it came in, as demand too.
        assert [count(each.edge, "requests_total") for each in (a, b)] == [1, 1]
        arrivals = [each.edge.gate.demand.arrivals for each in (a, b) if each.edge.gate.demand]
        rates = [each.at(time.monotonic()).slow.requests_per_s for each in arrivals]
        assert min(rates) > 0


async def test_turn_for_turn_it_stays_wherever_it_comes_in() -> None:
    async with two_replicas() as (a, b):
        for turns in range(1, 6):
            comes_in = (a, b)[turns % 2]
            await call(comes_in.edge, payload=a_conversation(*map(str, range(turns))))
            await until(lambda: all_known(a, b) and all_known(b, a))
        assert sorted([len(a.engine.asked), len(b.engine.asked)]) == [0, 5]


async def test_a_short_conversation_runs_where_it_comes_in_and_nothing_is_hashed() -> None:
    async with two_replicas() as (a, b):
        for each in (a, b):
            await call(each.edge, payload=a_conversation("One?", system="Be brief."))
        assert (len(a.engine.asked), len(b.engine.asked)) == (1, 1)
        assert (len(a.reports.own), len(b.reports.own)) == (0, 0)
        assert chosen(b, "short") == 1


async def test_off_nothing_is_forwarded_or_reported() -> None:
    async with two_replicas(prefixes=PrefixConfig(forward=False)) as (a, b):
        for each in (a, b):
            await call(each.edge, payload=a_conversation("One?"))
        await asyncio.sleep(0.3)
        assert (len(a.engine.asked), len(b.engine.asked)) == (1, 1)
        assert b.reports.report()["replicas_heard"] == 0


async def test_a_replica_that_has_since_more_to_read_refuses_and_it_runs_here() -> None:
    async with two_replicas() as (a, b):
        await call(a.edge, payload=a_conversation("One?"))
        await known(b)
        with a.edge.gate.enter(1, prompt_tokens=40_000.0):
            turn = await call(b.edge, payload=a_conversation("One?", "Two?"))
        assert turn.status == 200
        assert (len(a.engine.asked), len(b.engine.asked)) == (1, 1)
        assert chosen(b, "refused") + chosen(b, "waits") == 1
        assert count(b.edge, "requests_total") == 1


async def test_a_full_or_draining_or_silent_replica_gets_nothing() -> None:
    async with two_replicas() as (a, b):
        await call(a.edge, payload=a_conversation("One?"))
        await known(b)
        with a.edge.gate.enter(4):
            await until(lambda: not next(iter(b.reports._peers.values())).state.has_room)
            await call(b.edge, payload=a_conversation("One?", "Two?"))
        assert chosen(b, "full") == 1
        a.edge.hand_over.draining = True
        await until(lambda: next(iter(b.reports._peers.values())).state.draining)
        await call(b.edge, payload=a_conversation("Two?"))
        next(iter(b.reports._peers.values())).received_s -= STALE_S + 1
        await call(b.edge, payload=a_conversation("Three?"))
        assert (len(a.engine.asked), len(b.engine.asked)) == (1, 3)


async def test_an_engine_without_a_prefix_cache_gets_nothing() -> None:
    async with two_replicas() as (a, b):
        a.reports.state = replica_state(a.edge.gate, lambda: False, lambda: False)
        await call(a.edge, payload=a_conversation("One?"))
        await known(b)
        await call(b.edge, payload=a_conversation("One?", "Two?"))
        assert (len(a.engine.asked), chosen(b, "full")) == (1, 1)


async def test_a_replica_that_is_lost_is_no_error_of_the_request() -> None:
    async with two_replicas() as (a, b):
        await call(a.edge, payload=a_conversation("One?"))
        await known(b)
        b.reports._urls = {"a": "http://127.0.0.1:9"}
        turn = await call(b.edge, payload=a_conversation("One?", "Two?"))
        assert (turn.status, len(b.engine.asked)) == (200, 1)


async def test_what_waits_here_is_not_passed() -> None:
    async with two_replicas() as (a, b):
        await call(a.edge, payload=a_conversation("One?"))
        await known(b)
        with b.edge.gate.enter(4), b.edge.gate.enter(1):
            turn = Call(b.edge, payload=a_conversation("One?", "Two?"))
            await asyncio.sleep(0.05)
            assert len(a.engine.asked) == 1
            turn.leave()
            await turn.done
        assert len(b.reports.own) == 0, "its engine has not read it"


async def test_a_request_that_is_refused_is_nothing_that_was_read() -> None:
    async with two_replicas() as (a, b):
        gates = [each.edge.gate for each in (a, b)]
        for gate in gates:
            gate.configure(GateLimits(4, 0, 1000.0))
        with gates[0].enter(4), gates[1].enter(4):
            refused = await call(b.edge, payload=a_conversation("One?"))
        assert refused.status == 429
        assert (len(a.reports.own), len(b.reports.own)) == (0, 0)


async def test_one_that_is_alone_knows_what_it_has_when_another_comes() -> None:
    alone = a_replica("a", {})
    await call(alone.edge, payload=a_conversation("One?"))
    assert len(alone.reports.own) > 0
    assert sum(chosen(alone, reason.value) for reason in ChoiceReason) == 0
    await alone.edge.forwarder.close()


async def test_a_replica_that_takes_a_request_and_falls_silent_does_not_keep_it() -> None:
    async with two_replicas() as (a, b):
        await call(a.edge, payload=a_conversation("One?"))
        await known(b)
        hangs = asyncio.Event()

        async def hanging(*_: Any) -> None:
            hangs.set()
            await asyncio.Event().wait()

        a.engine.answering = hanging
        a.reports.enabled = lambda: False
        turn = asyncio.create_task(call(b.edge, payload=a_conversation("One?", "Two?")))
        await hangs.wait()
        assert not turn.done()
        next(iter(b.reports._peers.values())).received_s -= STALE_S
        assert (await turn).status == 200
        assert (chosen(b, "refused"), len(b.engine.asked)) == (1, 1)


async def test_what_waits_is_offered_first_to_the_replica_that_has_its_prefix() -> None:
    urls: dict[str, str] = {}
    a, b, c = (a_replica(name, urls) for name in "abc")
    asked: list[str] = []

    def noted(replica: Replica, name: str) -> ASGIApp:
        app = _mounted(replica)

        async def with_note(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/api/chat":
                asked.append(name)
            await app(scope, receive, send)

        return with_note

    async with (
        served(noted(a, "a")) as urls["a"],
        served(noted(b, "b")) as urls["b"],
        served(noted(c, "c")) as urls["c"],
    ):
        a.edge.forwarder.peers = peers(urls["b"], urls["c"])
        running = [asyncio.create_task(each.reports.run()) for each in (a, b, c)]
        await until(lambda: a.reports.report()["replicas_heard"] == 2)
        await call(c.edge, payload=a_conversation("One?"))
        await until(lambda: any(len(peer.cached) for peer in a.reports._peers.values()))
        for number in range(8):
            with a.edge.gate.enter(4):
                turn = a_conversation("One?", f"And {number}?")
                assert (await call(a.edge, payload=turn)).status == 200
        assert asked == ["c"] * 8
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for each in (a, b, c):
            await each.edge.forwarder.close()


async def test_isolated_callers_share_nothing_and_find_their_own() -> None:
    isolated = {"prefix_cache_isolation": True}
    async with two_replicas(**isolated) as (a, b):
        key, other = ([(b"authorization", b"Bearer " + name)] for name in (b"one", b"two"))
        await call(a.edge, payload=a_conversation("One?"), headers=key)
        await known(b)
        await call(b.edge, payload=a_conversation("One?", "Two?"), headers=other)
        await call(b.edge, payload=a_conversation("One?", "Two?"))
        assert len(a.engine.asked) == 1
        await call(b.edge, payload=a_conversation("One?", "Two?"), headers=key)
        assert len(a.engine.asked) == 2


async def test_a_client_cannot_write_the_mark() -> None:
    async with two_replicas() as (a, _):
        forged = [(PREFIX_HEADER, b"-1")]
        assert (await call(a.edge, payload={"prompt": "hi"}, headers=forged)).status == 200
        true = [*forwarded_by_a_replica(), *forged]
        refused = await call(a.edge, payload={"prompt": "hi"}, headers=true)
        assert (refused.status, refused.error["code"]) == (429, "relay_no_room")


async def test_the_log_says_why_and_the_client_is_not_informed(caplog: Any) -> None:
    caplog.set_level("INFO")
    async with two_replicas() as (a, b):
        await call(a.edge, payload=a_conversation("One?"))
        await known(b)
        turn = await call(b.edge, payload=a_conversation("One?", "Two?"))
        (line,) = [r for r in caplog.records if getattr(r, "forwarded_for", None)]
        assert line.forwarded_for == "found"
        assert "found" not in json.dumps(turn.headers) + turn.text


def test_every_tier_has_the_setting() -> None:
    assert TierSettings(max_new_tokens=1).prefixes == PrefixConfig()
