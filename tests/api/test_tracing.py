"""Spans of requests: the tree that each way through an edge leaves, and what is in it."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve_app.api.edge import TierEdge
from serve_app.api.gateway import Gateway
from serve_app.api.request_spans import Tracer
from serve_app.api.tracing import make_tracer, traces_url
from serve_app.api.web_app import make_web_app
from serve_app.core.tiers import Tier
from tests.api.asgi import Call, FakeEngine, answers, answers_on, breaks, call, streams
from tests.api.fake_keys import TEAM, WRONG, FakeQuotas, a_fake_desk, bearer
from tests.api.loopback import served, unreachable
from tests.api.test_edge_cache import SURE, caching
from tests.api.test_forwarding import a_pair, until
from tests.api.two_tiers import two_tiers
from tests.api.web_client import BOTH, FakeTiers
from tests.builders import a_gate, an_edge, some_settings
from tests.otlp_receiver import receiving
from tests.virtual_time import virtual

DONE = {"choices": [], "object": "chat.completion"}
HI = {"prompt": "a zebra asks", "max_tokens": 7}
TRACE_ID, PARENT_ID = "5b8aa5a2d2c872e8321cf37308d69df2", "051581bf3cb55c13"
GIVEN = [(b"traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01".encode()), (b"tracestate", b"a=1")]


class Recorded:
    """A tracer, and the spans that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = Tracer("", provider.get_tracer("test"), provider)

    def on(self, edge: TierEdge) -> TierEdge:
        edge.tracer = self.tracer
        return edge

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    @property
    def root(self) -> ReadableSpan:
        (root,) = (span for span in self.spans if span.name not in STEPS)
        return root

    def steps(self, root: ReadableSpan | None = None) -> list[str]:
        """Names of the spans below a request's, in the order of their ends."""
        root = root or self.root
        return [
            span.name
            for span in self.spans
            if span.parent is not None and span.parent.span_id == id_of(root)
        ]


STEPS = {"admission", "queue", "forward", "engine"}


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def the(recorded: Recorded, name: str) -> ReadableSpan:
    (found,) = (span for span in recorded.spans if span.name == name)
    return found


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def headers_of(engine: FakeEngine) -> dict[bytes, bytes]:
    return dict(engine.scopes[-1]["headers"])


# --- where spans go


@pytest.mark.parametrize(
    ("configured", "environment", "url"),
    [
        (None, {}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ("http://c:4318", {}, "http://c:4318/v1/traces"),
        ("http://c:4318/", {}, "http://c:4318/v1/traces"),
        ("https://c/otlp", {}, "https://c/otlp/v1/traces"),
        ("http://c/v1/traces", {}, "http://c/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://e:1"}, "http://e:1/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/as-it-is"}, "http://t/as-it-is"),
        ("http://c", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t"}, "http://c/v1/traces"),
    ],
)
def test_the_setting_wins_over_opentelemetrys_variables(
    configured: str | None, environment: dict[str, str], url: str | None
) -> None:
    assert traces_url(configured, environment) == url


def test_without_an_endpoint_there_is_no_tracer_and_nothing_of_opentelemetry() -> None:
    script = (
        "import os, sys\n"
        "import serve_app.api.edge, serve_app.api.web_app, serve_app.api.tracing as tracing\n"
        "assert tracing.make_tracer(None, {}) is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_protocol_that_is_not_supported_is_said_and_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        with caplog.at_level(logging.ERROR):
            assert make_tracer("http://c", {name: "grpc"}) is None
        assert caplog.records[-1].__dict__["variable"] == name


@pytest.mark.parametrize("given", ["collector:4318", "grpc://collector:4317", "/v1/traces"])
def test_an_address_that_is_no_url_is_said_and_stops_nothing(
    given: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert make_tracer(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": given}) is None
    assert "no http:// or https:// URL" in caplog.text


def test_empty_variables_are_as_none() -> None:
    names = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_SERVICE_NAME", "OTEL_BSP_SCHEDULE_DELAY")
    tracer = make_tracer("http://127.0.0.1:9", dict.fromkeys(names, ""))
    assert tracer is not None
    assert tracer.provider.resource.attributes["service.name"] == "tierserve"
    tracer.provider.shutdown()


async def test_spans_reach_a_collector_as_otlp_over_http() -> None:
    with receiving() as receiver:
        tracer = make_tracer(receiver.url, {}, **{"tierserve.tier": "chat"})
        assert tracer is not None
        edge = an_edge(FakeEngine(answers(DONE)))
        edge.tracer = tracer
        await call(edge, "", HI, headers=GIVEN)
        await asyncio.to_thread(tracer.provider.shutdown)
    assert receiver.paths == {"/v1/traces"}
    assert receiver.tree(TRACE_ID) == [
        (0, "tierserve: chat chat"),
        (1, "tierserve: admission"),
        (1, "tierserve: engine"),
    ]
    assert {span.resource["tierserve.tier"] for span in receiver.spans} == {"chat"}
    assert not any(b"zebra" in body for body in receiver.bodies)


async def test_a_collector_that_is_not_there_stops_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    async with unreachable() as url:
        tracer = make_tracer(url, {})
        assert tracer is not None
        edge = an_edge(FakeEngine(answers(DONE)))
        edge.tracer = tracer
        assert (await call(edge, "", HI)).status == 200
        await asyncio.to_thread(tracer.provider.shutdown)


# --- what is passed on


@virtual
async def test_a_traceparent_reaches_the_engine_as_it_is_where_nothing_is_traced() -> None:
    engine = FakeEngine(answers(DONE))
    await call(an_edge(engine), "", HI, headers=GIVEN)
    assert GIVEN[0] in engine.scopes[-1]["headers"]
    assert GIVEN[1] in engine.scopes[-1]["headers"]


@virtual
async def test_the_engine_gets_the_traceparent_of_its_step_and_the_state_as_it_came() -> None:
    engine, recorded = FakeEngine(answers(DONE)), Recorded()
    await call(recorded.on(an_edge(engine)), "", HI, headers=GIVEN)
    given, step = headers_of(engine), the(recorded, "engine")
    assert given[b"traceparent"] == f"00-{TRACE_ID}-{id_of(step):016x}-01".encode()
    assert given[b"tracestate"] == b"a=1"
    assert recorded.root.parent is not None
    assert recorded.root.parent.span_id == int(PARENT_ID, 16)


@pytest.mark.parametrize("given", [b"00-zz-zz-zz", b"\xff" * 55, b"", b"00-1-1-01"])
def test_a_malformed_traceparent_begins_a_trace_of_its_own(given: bytes) -> None:
    async def ask() -> None:
        made = await call(
            recorded.on(an_edge(FakeEngine(answers(DONE)))),
            "",
            HI,
            headers=[(b"traceparent", given)],
        )
        assert made.status == 200

    recorded = Recorded()
    asyncio.run(ask())
    assert recorded.root.parent is None


@virtual
async def test_what_its_client_does_not_sample_leaves_no_span_and_says_so_further_on() -> None:
    engine, recorded = FakeEngine(answers(DONE)), Recorded()
    unsampled = f"00-{TRACE_ID}-{PARENT_ID}-00".encode()
    headers = [(b"traceparent", unsampled)]
    await call(recorded.on(an_edge(engine)), "", HI, headers=headers)
    assert not recorded.spans
    assert headers_of(engine)[b"traceparent"].endswith(b"-00")


async def test_the_web_application_is_above_the_tier() -> None:
    recorded, seen = Recorded(), dict[str, str]()

    async def tier(scope: Any, receive: Any, send: Any) -> None:
        seen.update(Request(scope).headers)
        answer: Response = JSONResponse({}, status_code=503)
        await answer(scope, receive, send)

    async with served(tier) as url:

        async def base_url() -> str:
            return url

        gateway = Gateway(base_url, BOTH, 1024)
        app = make_web_app(BOTH, FakeTiers(), gateway, tracer=recorded.tracer)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://web") as client:
            assert (await client.get("/healthz")).status_code == 200
            assert not recorded.spans
            given = {name.decode(): value.decode() for name, value in GIVEN}
            await client.post("/v1/chat/completions", json={"model": "chat"}, headers=given)
        await gateway.close()
    root = recorded.root
    assert root.name == "POST /v1/chat/completions"
    assert seen["traceparent"] == f"00-{TRACE_ID}-{id_of(root):016x}-01"
    assert seen["tracestate"] == "a=1"
    assert attributes(root)["http.response.status_code"] == 503
    assert attributes(root)["tierserve.request_id"] == seen["x-request-id"]
    assert root.status.status_code is StatusCode.ERROR


# --- the steps of each way through an edge


@virtual
async def test_a_served_request_says_what_it_asked_for_and_how_it_ended() -> None:
    recorded = Recorded()
    settings = some_settings().model_copy(update={"log_prompts": True})
    edge = recorded.on(an_edge(FakeEngine(streams(b"data: {}\n\n")), settings=settings))
    await call(edge, "", {**HI, "stream": True, "temperature": 0.5})
    assert recorded.steps() == ["admission", "engine"]
    given = attributes(recorded.root)
    assert given.pop("tierserve.request_id")
    assert given == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "tierserve",
        "gen_ai.request.model": "chat",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.choice.count": 1,
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": given["gen_ai.request.top_p"],
        "tierserve.outcome": "served",
        "tierserve.queue_wait_s": 0.0,
        "tierserve.chunks": 1,
    }


@virtual
async def test_no_text_of_a_request_is_in_a_span_with_the_prompts_in_the_log_neither() -> None:
    recorded = Recorded()
    settings = some_settings().model_copy(update={"log_prompts": True})
    edge = recorded.on(an_edge(FakeEngine(answers(DONE)), settings=settings))
    secret = [(b"authorization", b"Bearer zebra"), (b"x-api-key", b"zebra")]
    await call(edge, "", {**HI, "user": "zebra", "stop": ["zebra"]}, headers=secret)
    await call(edge, "", {"prompt": "zebra", "temperature": "zebra"}, headers=secret)
    assert len(recorded.spans) >= 4
    assert "zebra" not in "".join(span.to_json() for span in recorded.spans)


@virtual
async def test_a_span_has_the_name_of_a_key_and_nothing_of_the_key_itself() -> None:
    recorded = Recorded()
    edge = recorded.on(an_edge(FakeEngine(answers(DONE))))
    edge.access = a_fake_desk(quotas=FakeQuotas())
    assert (await call(edge, "", HI, headers=bearer(WRONG))).status == 401
    assert not recorded.spans, "whoever has no key does not fill a collector either"
    assert (await call(edge, "", HI, headers=bearer(TEAM))).status == 200
    assert attributes(recorded.root)["tierserve.key"] == "team"
    assert TEAM.decode() not in "".join(span.to_json() for span in recorded.spans)


@virtual
async def test_a_request_that_waits_has_its_queue_as_a_step() -> None:
    recorded, free = Recorded(), asyncio.Event()
    edge = an_edge(FakeEngine(answers_on(free, DONE)))
    first = Call(edge, "", HI)
    await asyncio.sleep(0)
    second = Call(recorded.on(edge), "", HI)
    await asyncio.sleep(1)
    free.set()
    await asyncio.gather(first.done, second.done)
    assert recorded.steps() == ["admission", "queue", "engine"]
    assert attributes(recorded.root)["tierserve.queue_wait_s"] > 0


@virtual
async def test_a_refused_a_wrong_a_kept_and_a_failed_request_end_their_spans() -> None:
    for edge, payload, status, reason, steps in (
        (an_edge(FakeEngine(answers(DONE)), gate=a_gate(max_wait_s=0)), HI, 429, "", ["admission"]),
        (an_edge(FakeEngine(answers(DONE))), {"n": "x"}, 400, None, ["admission"]),
        (an_edge(FakeEngine(breaks(RuntimeError()))), HI, 500, "fault", ["admission", "engine"]),
    ):
        recorded = Recorded()
        filling = Call(edge, "", HI) if status == 429 else None
        await asyncio.sleep(0)
        made = Call(recorded.on(edge), "", payload)
        await asyncio.wait({made.done})
        assert made.status == status == attributes(recorded.root)["http.response.status_code"]
        assert recorded.steps() == steps
        if reason:
            assert attributes(recorded.root)["error.type"] == reason
            assert isinstance(made.done.exception(), RuntimeError)
        failed = recorded.root.status.status_code is StatusCode.ERROR
        assert failed == (status == 500)
        if filling is not None:
            await filling.done
    recorded = Recorded()
    edge = an_edge(FakeEngine(answers(DONE)), settings=caching())
    await call(edge, "", SURE)
    await call(recorded.on(edge), "", SURE)
    assert recorded.steps() == ["admission"]
    assert attributes(recorded.root)["tierserve.outcome"] == "cached"


@virtual
async def test_a_client_that_leaves_ends_its_spans() -> None:
    recorded = Recorded()
    leaving = Call(recorded.on(an_edge(FakeEngine(answers(DONE, after_s=9)))), "", HI)
    await asyncio.sleep(1)
    leaving.leave()
    await asyncio.wait({leaving.done})
    assert recorded.steps() == ["admission", "engine"]
    assert attributes(recorded.root)["http.response.status_code"] == 499
    assert attributes(recorded.root)["error.type"] == "client_gone"


async def test_the_replica_that_runs_a_forwarded_request_is_below_the_one_that_forwards() -> None:
    near, far = Recorded(), Recorded()
    async with a_pair() as pair:
        filling = await pair.fill_here()
        near.on(pair.here)
        far.on(pair.there)
        forwarded = Call(pair.here, payload=HI, headers=GIVEN)
        await until(lambda: pair.there_engine.running == 1)
        pair.free_here.set()
        pair.free_there.set()
        await asyncio.gather(filling.done, forwarded.done)
    assert near.steps() == ["admission", "forward", "queue"]
    assert attributes(near.root)["tierserve.outcome"] == "relayed"
    assert far.root.parent is not None
    assert far.root.parent.span_id == id_of(the(near, "forward"))
    assert far.steps() == ["admission", "engine"]
    assert far.root.context is not None
    assert far.root.context.trace_id == int(TRACE_ID, 16)


async def test_offers_that_nobody_takes_leave_no_span() -> None:
    recorded = Recorded()
    async with a_pair() as pair:
        filling = [await pair.fill_here(), await pair.fill_there()]
        waiting = Call(recorded.on(pair.here), payload=HI)
        await asyncio.sleep(0.2)
        pair.free_here.set()
        await waiting.done
        pair.free_there.set()
        await asyncio.gather(*(call.done for call in filling))
    assert recorded.steps() == ["admission", "queue", "engine"]


async def test_a_lent_slot_is_below_the_tier_that_borrows() -> None:
    near, far = Recorded(), Recorded()
    async with two_tiers() as tiers:
        filling = await tiers.fill_chat()
        near.on(tiers.chat)
        far.on(tiers.reasoning)
        borrowing = await tiers.borrow()
        await tiers.end(filling, borrowing)
    assert attributes(near.root)["tierserve.lender"] == Tier.REASONING
    assert attributes(far.root)["tierserve.borrower"] == Tier.CHAT
    assert far.root.parent is not None
    assert far.root.parent.span_id == id_of(the(near, "forward"))
