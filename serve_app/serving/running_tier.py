"""A started replica: its engine and edge, its live settings, and what it reports of itself."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import REGISTRY, Metric, generate_latest
from prometheus_client.registry import Collector

from serve_app.api.answer_cache import AnswerCache
from serve_app.api.demand import DemandMeter
from serve_app.api.edge import TierEdge
from serve_app.api.field_rules import FieldBounds, SchemaRules
from serve_app.api.forwarding import Forwarder
from serve_app.api.gate import Gate, GateLimits
from serve_app.api.lending import LendingDesk
from serve_app.api.prefix_forwarding import PrefixForwarding, replica_state
from serve_app.api.prefix_reports import PrefixReports
from serve_app.api.request_body import RequestReader
from serve_app.api.request_record import count_from_zero
from serve_app.api.stream_moves import MOVES_WITHIN_S
from serve_app.config.tier import TierArgs, TierSettings
from serve_app.core.admission.capacity import Limits, derive_limits, express_slots
from serve_app.core.admission.queue_drain import DrainLimit, ServiceTime, drain_limit_s
from serve_app.core.placement.hardware import Hardware, model_shape
from serve_app.core.prefix.prompt_chunks import CHUNK_BYTES
from serve_app.core.scaling.step_time import derived_step_model
from serve_app.core.scaling.workload import LearntLengths
from serve_app.core.structure.schema_limits import SchemaLimits
from serve_app.engine.interface import Engine
from serve_app.errors import engine_stopped
from serve_app.serving.access_start import StartedAccess
from serve_app.telemetry import TierMetrics, counted, cumulative_counts

# Of vLLM's patches, those without which a journal would not fit the events of a stream.
PATCHES_FOR_JOURNALS = ("resumed_output", "event_ids")


@dataclass(slots=True)
class RunningTier:
    args: TierArgs
    hardware: Hardware
    engine: Engine
    edge: TierEdge
    access: StartedAccess
    settings_error: str | None = None
    _counted_tokens: int = 0
    _counted_structures: Counter[str] = field(default_factory=Counter[str])
    _throughput: "_Throughput" = field(default_factory=lambda: _Throughput())

    @classmethod
    def build(
        cls,
        args: TierArgs,
        hardware: Hardware,
        engine: Engine,
        settings: TierSettings,
        metrics: TierMetrics,
        forwarder: Forwarder,
        access: StartedAccess,
    ) -> "RunningTier":
        """Put the tier's edge in front of a started engine."""
        count_from_zero(metrics)
        limits = _derive_limits(hardware, engine, settings)
        gate_limits = _gate_limits(settings, limits, engine)
        demand = _demand_meter(hardware, engine, settings, gate_limits.slots)
        engine.load.watch = demand
        gate = Gate(gate_limits, ServiceTime(limits.service_s), time.monotonic, demand)
        reader = RequestReader(
            args.tier,
            args.tier.value,
            gate,
            LendingDesk(args.tier),
            known_fields=engine.known_fields,
            bounds=FieldBounds(
                engine.max_model_len, engine.max_model_len * engine.longest_token_chars
            ),
            schema_limits=SchemaLimits(
                args.structure.max_bytes, args.structure.max_nesting, args.structure.max_nodes
            ),
            schema_rules={
                path: SchemaRules.of(schema, engine.template_variables)
                for path, schema in engine.request_schemas.items()
            },
            thinks=engine.thinks,
            r1=engine.r1,
            journals=all(engine.patches.get(patch, True) for patch in PATCHES_FOR_JOURNALS),
        )
        edge = TierEdge(
            engine_app=engine.app,
            tier=args.tier,
            model=args.tier.value,
            settings=settings,
            gate=gate,
            metrics=metrics,
            forwarder=forwarder,
            reader=reader,
            engine_dead=lambda: engine.dead,
            engine_done=engine.has_finished,
            cache=AnswerCache(settings.answer_cache),
            access=access.desk,
            resumable=args.resumable,
        )
        return cls(args, hardware, engine, edge, access)

    def find_prefixes(self, addresses: Callable[[], Awaitable[Mapping[str, str]]]) -> PrefixReports:
        """Let requests look for the replica that has their prefix, among those at `addresses`. The
        reports have to be run, and put before the edge."""
        edge, gate = self.edge, self.edge.gate

        def most_chunks() -> int:
            return max(1, int(self.engine.kv_tokens / edge.reader.prompts.tokens(CHUNK_BYTES)))

        reports = PrefixReports(
            edge.forwarder.replica,
            edge.forwarder.secret.key,
            self.args.tier.route_prefix,
            time.monotonic,
            addresses,
            edge.forwarder.status_of,
            replica_state(
                gate,
                lambda: edge.hand_over.draining or edge.engine_dead(),
                lambda: self.engine.load.prefix_queries > 0,
            ),
            lambda: gate.running_sequences + gate.queued_requests,
            most_chunks,
            lambda: edge.settings.prefixes.forward,
        )
        edge.prefixes = PrefixForwarding(
            reports, gate, edge.forwarder, edge.metrics, lambda: edge.settings
        )
        return reports

    def apply(self, settings: TierSettings) -> Limits:
        """Change the live settings; what waits or runs goes on. The derived limits."""
        limits = _derive_limits(self.hardware, self.engine, settings)
        self.edge.settings = settings
        self.edge.gate.configure(_gate_limits(settings, limits, self.engine))
        if settings.answer_cache != self.edge.cache.config:
            self.edge.cache = AnswerCache(settings.answer_cache)
        self.settings_error = None
        return limits

    @property
    def queue_depth(self) -> int:
        """Requests accepted and not yet computing: at the gate and inside the engine."""
        return self.edge.gate.queued_requests + (self.engine.load.waiting or 0)

    def autoscaling_stats(self) -> dict[str, float]:
        """The tier's own demand here (`ReplicaLoad`), and its settings of the scaling policy;
        floats are all that Serve hands to a policy."""
        gate, demand = self.edge.gate, self.edge.gate.demand
        assert demand is not None
        scaling, slo = self.edge.settings.scaling, self.edge.settings.slo
        waiting = self.engine.load.waiting or 0
        return {
            "running": float(gate.running_sequences - gate.borrowed_sequences),
            "queue_depth": float(self.queue_depth),
            "queued_requests": gate.queued_typical(waiting),
            "slots": float(gate.limits.slots),
            **demand.figures(self.engine.load.output_tokens, own_part=gate.own_part),
            "lend_share": self.edge.settings.admission.lend_share,
            "law_goodput": scaling.goodput,
            "law_drain_within_s": scaling.drain_within_s,
            "law_utilisation_down": scaling.utilisation_down,
            "law_least_hold_s": scaling.least_hold_s,
            "law_most_hold_s": scaling.most_hold_s,
            "law_slo_ttft_s": slo.ttft_s,
            "law_slo_tpot_s": slo.tpot_s,
        }

    def drain_limit(self) -> DrainLimit:
        """How long this replica goes on when it is being stopped. The engine's warm-up stands in
        for the measured speed until a stream has ended."""
        return drain_limit_s(
            max_new_tokens=self.edge.settings.max_new_tokens,
            token_s=self.edge.token_s or self.engine.token_s,
            queue_wait_s=self.edge.gate.expected_wait_s(),
        )

    async def drain(self, limit_s: float) -> int:
        """Offer the streams that may go on elsewhere, and let the others end by themselves; how
        many were ended when the time was over."""
        offering = asyncio.create_task(self.edge.hand_over.offer())
        try:
            await asyncio.sleep(limit_s)
            return self.edge.deadlines.end()
        finally:
            offering.cancel()

    async def end_kept_streams(self) -> int:
        """End the streams that run on without a client; where another replica takes one it goes on
        there. How many ran. Serve counts connections, and so ends a drain without them."""
        kept = self.edge.streams.kept
        if running := kept.running:
            self.edge.deadlines.end()
            await kept.ended(within_s=MOVES_WITHIN_S)
        return running

    def engine_died(self) -> int:
        """End what the engine did not end itself; how many that were."""
        return self.edge.deadlines.end(engine_stopped)

    def report(self) -> dict[str, Any]:
        """What this replica is and does now, for `/api/tiers` and `/readyz`."""
        gate, metrics = self.edge.gate, self.edge.metrics
        return {
            "model": self.args.model,
            "reasons": self.engine.thinks,
            "hardware": self.hardware.name,
            "max_model_len": self.engine.max_model_len,
            "slots": gate.limits.slots,
            "max_queued_requests": gate.limits.max_queued_requests,
            "running": gate.running_sequences,
            "lent": gate.borrowed_sequences,
            "borrowed": self.edge.forwarder.sequences_elsewhere,
            "queued": gate.queued_requests,
            "queue_depth": self.queue_depth,
            "expected_wait_s": round(gate.expected_wait_s(), 3),
            "service_s": round(gate.service.mean_s, 3),
            "service_measured": gate.service.measured,
            "output_tokens_per_s": self._throughput.per_s(self.engine.load.output_tokens),
            "kv_cache_usage": self.engine.load.kv_cache_usage,
            # Since the start.
            "prefix_cache": {
                "prompt_tokens": self.engine.load.prefix_queries,
                "found_tokens": self.engine.load.prefix_hits,
            },
            "prefixes": None if self.edge.prefixes is None else self.edge.prefixes.reports.report(),
            # Since the start, by the bounds of the metrics of the same names.
            "observed": {
                "ttft": cumulative_counts(metrics.ttft_s),
                "queue_wait": cumulative_counts(metrics.queue_wait_s),
                "refused": counted(metrics.refused),
            },
            "settings": self.edge.settings.model_dump(mode="json"),
            "settings_error": self.settings_error,
        }

    def metrics_text(self) -> str:
        """vLLM's metrics and ours, in Prometheus' text format."""
        gate, metrics = self.edge.gate, self.edge.metrics
        metrics.ledger_up.set(self.access.holder is None or self.access.holder.up)
        metrics.running.set(gate.running_sequences)
        metrics.lent_sequences.set(gate.borrowed_sequences)
        metrics.borrowed_sequences.set(self.edge.forwarder.sequences_elsewhere)
        metrics.queue_depth.set(self.queue_depth)
        metrics.slots.set(gate.limits.slots)
        metrics.kept_stream_bytes.set(self.edge.streams.kept.memory.kept_bytes)
        metrics.away_streams.set(self.edge.streams.kept.away)
        metrics.settings_invalid.set(self.settings_error is not None)
        metrics.service_s.set(gate.service.mean_s)
        metrics.output_tokens.inc(self.engine.load.output_tokens - self._counted_tokens)
        self._counted_tokens = self.engine.load.output_tokens
        for result, count in self.engine.structure_counts().items():
            metrics.structures.labels(result=result).inc(count - self._counted_structures[result])
            self._counted_structures[result] = count
        for patch, active in self.engine.patches.items():
            metrics.patch_active.labels(patch=patch).set(active)
        metrics.prefix_hit_rate.set(self.engine.load.prefix_hit_rate)
        if self.engine.load.waiting is not None:
            metrics.engine_waiting.set(self.engine.load.waiting)
        return generate_latest(_OwnMetrics()).decode()


class _OwnMetrics(Collector):
    """All of this process but vLLM's HTTP metrics, which nothing counts here (ADR 3): a zero
    would say that nobody asked."""

    def collect(self) -> Iterator[Metric]:
        return (metric for metric in REGISTRY.collect() if not metric.name.startswith("http_"))


@dataclass(slots=True)
class _Throughput:
    """Tokens a second between two readings of a counter that lie at least a second apart."""

    _read_s: float = field(default_factory=time.monotonic)
    _tokens: int = 0
    _per_s: float = 0.0

    def per_s(self, tokens: int) -> float:
        elapsed_s = time.monotonic() - self._read_s
        if elapsed_s >= 1.0:
            self._per_s = round((tokens - self._tokens) / elapsed_s, 1)
            self._read_s, self._tokens = time.monotonic(), tokens
        return self._per_s


def _derive_limits(hardware: Hardware, engine: Engine, settings: TierSettings) -> Limits:
    """Raises ValueError for settings that this engine cannot keep."""
    admission = settings.admission
    if settings.max_new_tokens >= engine.max_model_len:
        raise ValueError(
            f"max_new_tokens {settings.max_new_tokens} leaves no room for a prompt in the engine's "
            f"context of {engine.max_model_len} tokens: lower it, or raise engine.max_model_len"
        )
    return derive_limits(
        hardware,
        model_shape(engine.hf_config),
        kv_tokens=engine.kv_tokens,
        prompt_tokens=admission.expected_prompt_tokens,
        max_new_tokens=settings.max_new_tokens,
        expected_new_tokens=min(admission.expected_new_tokens, settings.max_new_tokens),
        min_stream_tokens_per_s=admission.min_stream_tokens_per_s,
        max_wait_s=admission.max_wait_s,
    )


def _demand_meter(
    hardware: Hardware, engine: Engine, settings: TierSettings, slots: int
) -> DemandMeter:
    admission = settings.admission
    new_tokens = min(admission.expected_new_tokens, settings.max_new_tokens)
    return DemandMeter(
        derived=derived_step_model(hardware, model_shape(engine.hf_config)),
        lengths=LearntLengths(admission.expected_prompt_tokens, new_tokens),
        clock_s=time.monotonic,
        slots=slots,
    )


def _gate_limits(settings: TierSettings, derived: Limits, engine: Engine) -> GateLimits:
    admission = settings.admission
    queued = admission.max_queued_requests
    slots = admission.max_running_sequences or derived.slots
    return GateLimits(
        slots=slots,
        max_queued_requests=derived.max_queued_requests if queued is None else queued,
        max_wait_s=admission.max_wait_s,
        batch_cost=derived.batch_cost,
        lend_share=admission.lend_share,
        slo_ttft_s=settings.slo.ttft_s,
        slo_tpot_s=settings.slo.tpot_s,
        kv_tokens=engine.kv_tokens,
        express_slots=express_slots(slots),
    )
