"""What tests build, with named defaults: a test mentions only what it is about."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from serve_app.api.answer_cache import AnswerCache
from serve_app.api.demand import DemandMeter
from serve_app.api.edge import TierEdge
from serve_app.api.forwarding import FORWARDED_HEADER, ClusterSecret, Forwarder, nowhere
from serve_app.api.gate import Gate, GateLimits
from serve_app.api.lending import Lender, LendingDesk
from serve_app.api.request_body import RequestReader
from serve_app.api.routes import CHAT_COMPLETIONS, Endpoint
from serve_app.api.rules import PreparedRequest, RuleBook, prepare
from serve_app.config.admission import AdmissionConfig
from serve_app.config.answers import SamplingConfig
from serve_app.config.tier import TierSettings
from serve_app.core.admission.admission import Admission, GateLoad, admit
from serve_app.core.admission.fairness import Standing
from serve_app.core.admission.prefill import PrefillAhead
from serve_app.core.admission.queue_drain import Drain, ServiceTime
from serve_app.core.admission.retry_reservations import DueBy
from serve_app.core.default_model import DEFAULT_MODEL_CONFIG
from serve_app.core.scaling.step_time import StepModel
from serve_app.core.scaling.workload import LearntLengths
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier
from serve_app.telemetry import PREFIX, make_tier_metrics
from tests.virtual_time import now_s

# The fields of vLLM 0.32's request schemas, by route.
KNOWN_FIELDS = {
    path: frozenset(fields.split())
    for path, fields in json.loads(Path(__file__).with_name("vllm_fields.json").read_text()).items()
}

# Of all replicas of a test's cluster.
SECRET = ClusterSecret()
R1_DISTILL_QWEN_1_5B = dict(DEFAULT_MODEL_CONFIG)


def a_drain(remaining_s: Sequence[float] = (1.0,), service_s: float = 4.0) -> Drain:
    return Drain(tuple(sorted(remaining_s)), service_s)


def an_admission(
    *,
    slots: int = 1,
    running: int = 1,
    queued: int = 0,
    standing: Standing | None = None,
    reserved: int = 0,
    drain: Drain | None = None,
    prefill: PrefillAhead | None = None,
    sequences: int = 1,
    returning: bool = False,
    max_queued_requests: int = 4,
    max_wait_s: float = 1000.0,
    margin: float = 1.0,
    due_by: tuple[DueBy, ...] = (),
    holds_s: float | None = None,
) -> Admission:
    drain = a_drain(remaining_s=(1.0,) * slots) if drain is None else drain
    return admit(
        GateLoad(slots, running, reserved, standing or Standing(queued=queued), due_by),
        drain,
        prefill or PrefillAhead(),
        holds_s=drain.service_s if holds_s is None else holds_s,
        sequences=sequences,
        returning=returning,
        max_queued_requests=max_queued_requests,
        max_wait_s=max_wait_s,
        margin=margin,
    )


def a_gate(
    *,
    slots: int = 1,
    max_queued_requests: int = 4,
    max_wait_s: float = 1000.0,
    service_s: float = 1.0,
    lend_share: float = 0.0,
    clock_s: Callable[[], float] = now_s,
) -> Gate:
    limits = GateLimits(slots, max_queued_requests, max_wait_s, lend_share=lend_share)
    return Gate(limits, ServiceTime(service_s), clock_s)


def a_reading_gate(
    *,
    slots: int = 8,
    max_queued_requests: int = 100,
    max_wait_s: float = 10.0,
    prompt_token_ms: float = 1.0,
    step_ms: float = 10.0,
    per_sequence_ms: float = 0.0,
    kv_tokens: int = 0,
    expected_prompt_tokens: int = 100,
    expected_new_tokens: int = 100,
    lend_share: float = 0.5,
) -> Gate:
    """A gate in front of an engine of which it knows how fast it is."""
    limits = GateLimits(
        slots, max_queued_requests, max_wait_s, lend_share=lend_share, kv_tokens=kv_tokens
    )
    lengths = LearntLengths(expected_prompt_tokens, expected_new_tokens)
    meter = DemandMeter(StepModel(step_ms, per_sequence_ms, prompt_token_ms), lengths, now_s, slots)
    return Gate(limits, ServiceTime(1.0), now_s, meter)


def some_settings(
    *,
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS[Tier.CHAT],
    sampling: SamplingConfig | None = None,
    system_prompt: str | None = None,
    max_body_bytes: int = 4096,
    **admission: Any,
) -> TierSettings:
    return TierSettings(
        max_new_tokens=max_new_tokens,
        admission=AdmissionConfig(**admission),
        sampling=sampling or SamplingConfig(),
        system_prompt=system_prompt,
        max_body_bytes=max_body_bytes,
    )


def a_prepared(
    payload: Mapping[str, Any] | None = None,
    *,
    endpoint: Endpoint = CHAT_COMPLETIONS,
    tier: Tier = Tier.CHAT,
    settings: TierSettings | None = None,
    slots: int = 8,
    **more: Any,
) -> PreparedRequest:
    """`payload` (a short form if none is given) and `more`, with the tier's rules applied."""
    default = some_settings(max_new_tokens=DEFAULT_MAX_NEW_TOKENS[tier])
    book = RuleBook(tier, settings or default, slots, tier.value, KNOWN_FIELDS)
    return prepare({**({"prompt": "hi"} if payload is None else payload), **more}, endpoint, book)


def peers(*urls: str) -> Callable[[], Awaitable[Sequence[str]]]:
    async def addresses() -> Sequence[str]:
        return urls

    return addresses


def forwarded_by_a_replica(request_id: str = "from-a-peer") -> list[tuple[bytes, bytes]]:
    """The headers that make a request one that another replica has forwarded."""
    mark = SECRET.mark(request_id).encode()
    return [(b"x-request-id", request_id.encode()), (FORWARDED_HEADER, mark)]


def lenders(*found: Lender) -> Callable[[], Awaitable[Sequence[Lender]]]:
    async def known() -> Sequence[Lender]:
        return found

    return known


def an_edge(
    engine_app: ASGIApp,
    *,
    gate: Gate | None = None,
    settings: TierSettings | None = None,
    tier: Tier = Tier.CHAT,
    peer_urls: Sequence[str] = (),
    lent_by: Sequence[Lender] = (),
    thinks: bool = False,
    clock_s: Callable[[], float] = now_s,
    replica: str = "",
    url_of: Callable[[str], Awaitable[str | None]] = nowhere,
    **more: Any,
) -> TierEdge:
    gate = gate or a_gate(clock_s=clock_s)
    return TierEdge(
        engine_app=engine_app,
        tier=tier,
        model=tier.value,
        settings=settings or some_settings(),
        gate=gate,
        metrics=make_tier_metrics(CollectorRegistry()),
        forwarder=Forwarder(tier, peers(*peer_urls), lenders(*lent_by), SECRET, replica, url_of),
        reader=RequestReader(
            tier,
            tier.value,
            gate,
            LendingDesk(tier),
            KNOWN_FIELDS,
            thinks=thinks,
            r1=thinks,
            clock_s=clock_s,
        ),
        cache=AnswerCache((settings or some_settings()).answer_cache),
        clock_s=clock_s,
        **more,
    )


def count(edge: TierEdge, name: str, **labels: str) -> float:
    """The sum of a metric's samples that carry these labels."""
    return sum(
        sample.value
        for metric in fields(edge.metrics)
        for family in getattr(edge.metrics, metric.name).collect()
        for sample in family.samples
        if sample.name == f"{PREFIX}_{name}" and labels.items() <= sample.labels.items()
    )


def idle(gate: Gate) -> bool:
    """Nothing runs and nothing waits."""
    return (gate.running_requests, gate.running_sequences, gate.queued_requests) == (0, 0, 0)
