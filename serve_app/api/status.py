"""Status, readiness and metrics of all tiers, from what their replicas report."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from serve_app.core.scaling.decision_record import ScalingRecord
from serve_app.core.tiers import Tier
from serve_app.telemetry import PREFIX

Report = Mapping[str, Any]


Said = TypeVar("Said")


@dataclass(frozen=True, slots=True)
class Kept(Generic[Said]):
    """`age_s`: since it came. `stale`: the replica has not answered the last question in time."""

    value: Said
    age_s: float = 0.0
    stale: bool = False


@dataclass(slots=True)
class KeptAnswers(Generic[Said]):
    """The answers of a tier's replicas to one question, each kept for `keep_s` at most."""

    keep_s: float
    clock_s: Callable[[], float] = time.monotonic
    _last: dict[str, tuple[Said, float]] = field(default_factory=dict[str, "tuple[Said, float]"])

    def take(self, replica: str, said: Said) -> None:
        """A replica has answered now, in time or not."""
        self._last[replica] = said, self.clock_s()

    def forget(self, replica: str) -> None:
        """It is dead."""
        self._last.pop(replica, None)

    def keep_only(self, replicas: Collection[str]) -> None:
        """Forget those that are not among the tier's replicas any more."""
        for replica in self._last.keys() - set(replicas):
            del self._last[replica]

    def since(self, asked_s: float) -> list[Kept[Said]]:
        """All that are kept, in the order of the replicas' names. Stale are those that came before
        `asked_s` of the clock, when the question was put."""
        now_s = self.clock_s()
        for replica, (_, at_s) in [*self._last.items()]:
            if now_s - at_s > self.keep_s:
                del self._last[replica]
        return [
            Kept(said, now_s - at_s, at_s < asked_s)
            for _, (said, at_s) in sorted(self._last.items(), key=lambda kept: kept[0])
        ]


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """What Serve reports of a tier's deployment."""

    status: str
    message: str
    replicas_running: int
    replicas_wanted: int | None


class Tiers(Protocol):
    """What status needs to know of the running tiers."""

    async def state(self, tier: Tier, max_age_s: float = 0.0) -> DeploymentState:
        """What Serve reported at most `max_age_s` ago."""
        ...

    async def reports(self, tier: Tier) -> Sequence[Kept[Report]]:
        """What each replica reports, or reported last."""
        ...

    async def schemas(self) -> Mapping[str, Mapping[str, Any]]:
        """The JSON schemas of request bodies by route, as an engine has them; empty where no
        replica is up."""
        ...

    async def scaling(self, tier: Tier) -> ScalingRecord | None:
        """What the autoscaling policy decided lately; None before its first decision."""
        ...

    async def metrics(self, tier: Tier) -> Mapping[str, Kept[str]]:
        """Prometheus text by replica, as it is now or was last."""
        ...

    async def gateways(self) -> Mapping[str, Kept[str]]:
        """The same of the processes behind `/v1`."""
        ...


_SUMMED = (
    *("running", "lent", "borrowed", "queued", "queue_depth", "slots", "max_queued_requests"),
    "output_tokens_per_s",
)


def describe_tier(
    tier: Tier,
    state: DeploymentState,
    kept: Sequence[Kept[Report]],
    scaling: ScalingRecord | None,
) -> dict[str, Any]:
    """One entry of `/api/tiers`: what the tier is, and how it is now. null is what nobody knows:
    replicas run, and none of them has reported yet."""
    reports = [each.value for each in kept]
    settings = reports[0]["settings"] if reports else None
    waits = [report["expected_wait_s"] for report in reports]
    unknown = not reports and state.replicas_running > 0
    return {
        "tier": tier.value,
        "url": tier.route_prefix,
        "model": reports[0]["model"] if reports else None,
        "ready": any(report["ready"] for report in reports),
        "max_model_len": reports[0]["max_model_len"] if reports else None,
        "max_new_tokens": settings["max_new_tokens"] if settings else None,
        "settings": settings,
        "status": state.status,
        "message": state.message,
        "replicas_running": state.replicas_running,
        "replicas_wanted": state.replicas_wanted,
        "stale": any(each.stale for each in kept),
        "report_age_s": max((round(each.age_s, 1) for each in kept), default=None),
        **{name: None if unknown else sum(report[name] for report in reports) for name in _SUMMED},
        "expected_wait_s": min(waits) if waits else None,
        "scaling": None if scaling is None else scaling.as_dict(),
        "replicas": [_described(each) for each in kept],
    }


def _described(each: Kept[Report]) -> dict[str, Any]:
    report = {key: value for key, value in each.value.items() if key != "settings"}
    return {**report, "report_age_s": round(each.age_s, 1), "stale": each.stale}


def merge_metrics(
    tiers: Sequence[Tier],
    texts: Mapping[tuple[str, str], Kept[str]],
    scaling: Mapping[Tier, ScalingRecord],
    more: Sequence[Metric] = (),
    gateways: Mapping[str, Kept[str]] | None = None,
) -> bytes:
    """One exposition of all replicas' metrics, with labels `tier` and `replica` added, and of each
    tier's replicas and scaling.

    `texts` holds each replica's exposition by (tier, replica); of one that is late the last, with
    its age. Each of `tiers` has a count of its reporting replicas, which is 0 where none reports: a
    tier without replicas does not just vanish. `more` families are appended as they are, those of
    `gateways` with the label `gateway`.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(tiers, texts, gateways or {}))
    registry.register(_Scaling(scaling))
    registry.register(_AsTheyAre(more))
    return generate_latest(registry)


@dataclass(frozen=True, slots=True, eq=False)
class _AsTheyAre(Collector):
    families: Sequence[Metric]

    def collect(self) -> Iterator[Metric]:
        return iter(self.families)


class _Scaling(Collector):
    def __init__(self, records: Mapping[Tier, ScalingRecord]) -> None:
        self._records = records

    def collect(self) -> Iterator[Metric]:
        by_tier = ["tier"]
        wanted = GaugeMetricFamily(
            f"{PREFIX}_scaling_wanted_replicas", "What the scaling law wants.", labels=by_tier
        )
        target = GaugeMetricFamily(
            f"{PREFIX}_scaling_target_replicas",
            "The newest target that Serve was given.",
            labels=by_tier,
        )
        inputs = GaugeMetricFamily(
            f"{PREFIX}_scaling_input", "Figures behind the decision.", labels=["tier", "input"]
        )
        decisions = CounterMetricFamily(
            f"{PREFIX}_scaling_decisions", "Changes of the desired count.", labels=by_tier
        )
        held = CounterMetricFamily(
            f"{PREFIX}_scaling_held", "Times that missing reports held the count.", labels=by_tier
        )
        holding = GaugeMetricFamily(
            f"{PREFIX}_scaling_holding", "1 while missing reports hold the count.", labels=by_tier
        )
        decided = GaugeMetricFamily(
            f"{PREFIX}_scaling_decided_timestamp_seconds", "Newest decision shown.", labels=by_tier
        )
        for tier, record in self._records.items():
            wanted.add_metric([tier.value], record.replicas_wanted)
            target.add_metric([tier.value], record.replicas_target)
            decisions.add_metric([tier.value], record.decisions_total)
            held.add_metric([tier.value], record.held_total)
            holding.add_metric([tier.value], record.holding)
            decided.add_metric([tier.value], record.at_s)
            for name, value in record.inputs.items():
                inputs.add_metric([tier.value, name], value)
        yield from (wanted, target, inputs, decisions, held, holding, decided)


class _Merged(Collector):
    """Replicas and gateways have families in common, and each stands on the page once."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        texts: Mapping[tuple[str, str], Kept[str]],
        gateways: Mapping[str, Kept[str]],
    ) -> None:
        self._tiers, self._texts, self._gateways = tiers, texts, gateways

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        replicas = GaugeMetricFamily(
            f"{PREFIX}_replica_up", "1 for each replica that reports.", labels=["tier", "replica"]
        )
        reporting = GaugeMetricFamily(
            f"{PREFIX}_replicas_reporting", "Replicas that report.", labels=["tier"]
        )
        ages = GaugeMetricFamily(
            f"{PREFIX}_replica_report_age_seconds",
            "Age of a replica's figures; 0 unless it was late.",
            labels=["tier", "replica"],
        )
        for tier in self._tiers:
            reporting.add_metric([tier.value], sum(of == tier.value for of, _ in self._texts))
        for (tier, replica), each in self._texts.items():
            replicas.add_metric([tier, replica], 1.0)
            ages.add_metric([tier, replica], each.age_s if each.stale else 0.0)
            _merge(families, each.value, {"tier": tier, "replica": replica})
        for gateway, each in self._gateways.items():
            _merge(families, each.value, {"gateway": gateway})
        yield from (reporting, replicas, ages)
        yield from families.values()


def _merge(families: dict[str, Metric], text: str, labels: Mapping[str, str]) -> None:
    """Add what one process exposes, with these labels, to the families of all."""
    for family in text_string_to_metric_families(text):
        merged = families.setdefault(
            family.name, Metric(family.name, family.documentation, family.type)
        )
        merged.samples += [
            sample._replace(labels={**sample.labels, **labels}) for sample in family.samples
        ]


def list_models(described: Sequence[Mapping[str, Any]], *, created_s: int) -> list[dict[str, Any]]:
    """`described` has the entries of `/api/tiers`. The served model's own name stands for the first
    tier. null is what no replica has said yet."""
    models = [_model(tier["tier"], tier, created_s) for tier in described]
    first = next(iter(described), None)
    served = next((tier["model"] for tier in described if tier["model"]), None)
    if first is not None and served is not None and served not in {each["id"] for each in models}:
        models.append(_model(served, first, created_s))
    return models


def _model(name: str, tier: Mapping[str, Any], created_s: int) -> dict[str, Any]:
    settings: Mapping[str, Any] = tier["settings"] or {}
    when_above = (settings.get("limits") or {}).get("when_above") or "lower"
    return {
        "id": name,
        "object": "model",
        "created": created_s,
        "owned_by": "tierserve",
        # vLLM's names for the model behind, and for the context of prompt and answer in tokens.
        "root": tier["model"],
        "max_model_len": tier["max_model_len"],
        "ready": tier["ready"],
        "limits": {
            "tier": tier["tier"],
            "max_new_tokens": tier["max_new_tokens"],
            "when_above": when_above if settings else None,
            "max_body_bytes": settings.get("max_body_bytes"),
            # Of all replicas that run now.
            "slots": tier["slots"],
            "max_queued_requests": tier["max_queued_requests"],
        },
        # What a request gets that leaves it out, and whether the model reasons at all.
        "defaults": {name: settings.get(name) for name in ("sampling", "thinking", "tasks")}
        | {"reasons": _reasons(tier)},
    }


def _reasons(tier: Mapping[str, Any]) -> bool | None:
    reports = [replica["reasons"] for replica in tier["replicas"] if "reasons" in replica]
    return any(reports) if reports else None
