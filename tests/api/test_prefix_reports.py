"""Replicas report to each other what they have; nobody else can, and old reports say nothing."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from serve_app.api.prefix_reports import (
    FORGOTTEN_S,
    MOST_REPORT_BYTES,
    REPORT_HEADER,
    REPORT_PATH,
    MeanLoad,
    PrefixReports,
)
from serve_app.core.prefix.replica_choice import STALE_S, ReplicaState
from tests.api.asgi import call
from tests.virtual_time import now_s, virtual

KEY = b"k" * 32
A, B, C = b"a" * 8, b"b" * 8, b"c" * 8


def a_state() -> ReplicaState:
    return ReplicaState("", 0.0, 8, 0.1, 0.0002)


@dataclass
class Network:
    """Replicas that reach each other without a network; `lost` ones answer nothing."""

    replicas: dict[str, PrefixReports] = field(default_factory=dict[str, PrefixReports])
    lost: set[str] = field(default_factory=set[str])
    sent: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])

    def add(self, name: str, **more: Any) -> PrefixReports:
        async def addresses() -> Mapping[str, str]:
            return {other: f"http://{other}" for other in self.replicas if other != name}

        reports = PrefixReports(
            name, KEY, "/api/chat", now_s, addresses, self._post, a_state,
            lambda: 4, **more,
        )  # fmt: skip
        self.replicas[name] = reports
        return reports

    async def _post(
        self, url: str, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> int | None:
        name, _, path = url.removeprefix("http://").partition("/")
        assert f"/{path}" == f"/api/chat{REPORT_PATH}"
        self.sent.append((name, body))
        if name in self.lost:
            return None
        return 204 if self.replicas[name].take(headers[0][1], body) else 404

    async def play(self, seconds: float) -> None:
        tasks = [asyncio.create_task(each.run()) for each in self.replicas.values()]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def found(reports: PrefixReports, *chunks: bytes) -> dict[str, float]:
    peers = reports.peers(chunks, 1.0)
    return {peer.state.name: peer.cached_tokens for peer in peers if peer.state.takes_part}


@virtual
async def test_what_one_has_read_the_others_know() -> None:
    network = Network()
    a, b, c = (network.add(name) for name in "abc")
    await network.play(6.0)
    a.use([A, B])
    await network.play(0.3)
    assert found(b, A, B, C) == {"a": 2, "c": 0}
    assert found(c, A) == {"a": 1, "b": 0}
    assert found(a, A) == {"b": 0, "c": 0}
    assert b.report()["replicas_heard"] == 2


@virtual
async def test_one_that_is_new_gets_all_and_one_that_missed_a_report_too() -> None:
    network = Network()
    a, b = network.add("a"), network.add("b")
    await network.play(6.0)
    a.use([A, B])
    network.lost.add("b")
    await network.play(2.0)
    assert found(b, A) in ({"a": 0}, {})
    network.lost.clear()
    new = network.add("new")
    await network.play(7.0)
    assert found(b, A, B)["a"] == found(new, A, B)["a"] == 2


@virtual
async def test_a_replica_that_is_silent_takes_no_part_and_is_forgotten() -> None:
    network = Network()
    a, b = network.add("a"), network.add("b")
    await network.play(6.0)
    assert found(b) == {"a": 0}
    await asyncio.sleep(STALE_S + 0.1)
    assert found(b) == {}
    del network.replicas["a"]
    await asyncio.sleep(FORGOTTEN_S)
    await network.play(6.0)
    assert b.peers((), 1.0) == []
    assert a.alone is False


@virtual
async def test_alone_or_off_nothing_is_sent() -> None:
    network = Network()
    alone = network.add("a")
    alone.use([A])
    await network.play(20.0)
    assert alone.alone
    off, also_off = network.add("b", enabled=lambda: False), network.add("c", enabled=lambda: False)
    network.replicas = {"b": off, "c": also_off}
    await network.play(20.0)
    assert network.sent == []


@virtual
async def test_one_that_takes_no_report_is_tried_seldom_and_then_gets_all() -> None:
    network, takes = Network(), False
    a, b = network.add("a"), network.add("b", enabled=lambda: takes)
    await network.play(6.0)
    network.sent.clear()
    running = asyncio.create_task(network.play(10.0))
    for number in range(90):
        a.use([b"%8d" % number])
        await asyncio.sleep(0.1)
    await running
    assert len(network.sent) <= 6
    takes = True
    await network.play(8.0)
    assert found(b, b"%8d" % 0) == {"a": 1}


@virtual
async def test_idle_replicas_report_once_a_second() -> None:
    network = Network()
    network.add("a")
    network.add("b")
    await network.play(6.0)
    network.sent.clear()
    await network.play(10.0)
    assert 16 <= len(network.sent) <= 20


@virtual
async def test_a_report_that_comes_again_or_is_anothers_work_says_nothing() -> None:
    network = Network()
    a, b = network.add("a"), network.add("b")
    await network.play(6.0)
    a.use([A])
    await network.play(0.3)
    old = next(body for name, body in network.sent if name == "b")
    mark = a._mark(old)
    assert b.take(mark, old)
    assert found(b, A) == {"a": 1}
    assert not b.take(b"0" * 64, old)
    assert not b.take(mark, old.replace(b"0.1", b"0.2"))


@virtual
async def test_the_mean_load_forgets() -> None:
    load = MeanLoad()
    load.observe(4, now_s())
    for _ in range(600):
        await asyncio.sleep(0.1)
        load.observe(4, now_s())
    assert 3.4 < load.sequences < 4
    for _ in range(600):
        await asyncio.sleep(0.1)
        load.observe(0, now_s())
    assert load.sequences < 0.6


async def test_without_a_true_signature_the_route_does_not_exist() -> None:
    reports = Network().add("a")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    edge = reports.behind(app)
    forged = [(REPORT_HEADER, b"1" * 64)]
    assert (await call(edge, path=REPORT_PATH, payload={})).status == 404
    assert (await call(edge, path=REPORT_PATH, payload={}, headers=forged)).status == 404
    large = {"x": "y" * MOST_REPORT_BYTES}
    assert (await call(edge, path=REPORT_PATH, payload=large, headers=forged)).status == 404
    body = reports._written([[A]], whole=True)
    true = [(REPORT_HEADER, reports._mark(body))]
    assert (await call(edge, path=REPORT_PATH, body=body, headers=true)).status == 204
