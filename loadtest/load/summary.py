"""From requests to figures, for each tier and for all together. What was not reported is None."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from loadtest.client.record import Outcome, Record
from loadtest.report.statistics import spread
from loadtest.scenario import Scenario, Slo, slo_words

ALL = "all"
LATENCIES = ("ttft_s", "ttfo_s", "tpot_s", "e2e_s")


def summarise(records: Sequence[Record], scenario: Scenario) -> dict[str, Any]:
    """Figures by tier. Requests of the warm-up are counted and otherwise left out."""
    counted = [record for record in records if record.counts]
    window_s = span_s(counted)
    tiers = sorted({record.tier for record in counted})
    by_tier = {tier: [r for r in counted if r.tier == tier] for tier in tiers}
    groups = by_tier if len(tiers) == 1 else {**by_tier, ALL: counted}
    return {
        "window_s": round(window_s, 3),
        "warm_up_requests": len(records) - len(counted),
        "tiers": {name: figures(group, scenario, window_s) for name, group in groups.items()},
    }


def span_s(records: Sequence[Record]) -> float:
    """From the first time a request was due to the last end: the time that rates are over."""
    ends = [record.ended_s for record in records if record.ended_s is not None]
    begins = [record.planned_s for record in records]
    return max(1e-9, max(ends) - min(begins)) if ends else 0.0


def figures(records: Sequence[Record], scenario: Scenario, window_s: float) -> dict[str, Any]:
    served = [record for record in records if record.served]
    return {
        "requests": len(records),
        "served": len(served),
        "refused": reasons(records, Outcome.REFUSED),
        "errors": reasons(records, Outcome.ERROR),
        "unfinished": sum(record.outcome is Outcome.UNFINISHED for record in records),
        "clipped": sum(record.clipped for record in records),
        "served_per_s": _rate(len(served), window_s),
        "output_tokens": sum(record.output_tokens or 0 for record in served),
        "output_tokens_per_s": _rate(sum(r.output_tokens or 0 for r in served), window_s),
        "output_tokens_from": tokens_from(served),
        "output_tokens_short": sum((r.output_tokens or 0) < r.output_tokens_asked for r in served),
        "input_tokens_asked": spread(float(r.input_tokens_asked) for r in served),
        "input_tokens_told": spread(r.input_tokens for r in served),
        **{name: spread(latencies(served, name)) for name in LATENCIES},
        "itl_s": spread(chain.from_iterable(record.itl_s for record in served)),
        "goodput": goodput(records, scenario, window_s),
        "retry_after": retries_kept(records),
    }


def latencies(served: Sequence[Record], name: str) -> list[float]:
    return [value for record in served if (value := getattr(record, name)) is not None]


def reasons(records: Sequence[Record], outcome: Outcome) -> dict[str, int]:
    """How often requests ended so, by reason. A request that was served in the end is not here."""
    found = Counter(r.reason or "unknown" for r in records if r.outcome is outcome)
    return dict(sorted(found.items()))


def tokens_from(served: Sequence[Record]) -> str | None:
    """`usage` if every answer reported its tokens, `chunks` if none did."""
    kinds = sorted({record.tokens_from for record in served if record.tokens_from})
    return " and ".join(kinds) or None


def goodput(
    records: Sequence[Record], scenario: Scenario, window_s: float
) -> dict[str, Any] | None:
    """None where no request has an SLO. Refused, failed and unfinished ones are missed."""
    slos = [scenario.slo_of(load) for load in scenario.loads]
    measured = [(r, slo) for r in records if (slo := slos[r.load]) is not None]
    if not measured:
        return None
    good = sum(is_good(record, slo) for record, slo in measured)
    named = dict.fromkeys(slo_words(slo) for _, slo in measured)
    return {
        "slo": "; ".join(named),
        "good": good,
        "of": len(measured),
        "share": round(good / len(measured), 4),
        "per_s": _rate(good, window_s),
    }


def timeline(
    records: Sequence[Record], samples: Sequence[Mapping[str, Any]], lag: tuple[Any, Any]
) -> dict[str, Any]:
    """What happened when, in equal steps: for plots. `lag` is when and how much."""
    end_s = max((r.ended_s or r.planned_s for r in records), default=1.0)
    step_s = max(1.0, np.ceil(end_s / 240))
    edges = np.arange(0.0, end_s + step_s, step_s)
    edges = edges if len(edges) > 1 else np.array([0.0, step_s])
    tiers = sorted({record.tier for record in records})
    return {
        "step_s": float(step_s),
        "at_s": edges[:-1].tolist(),
        "tiers": {
            tier: _tier_timeline([r for r in records if r.tier == tier], edges, step_s)
            for tier in tiers
        },
        "lag_s": _most_in_each(lag, edges),
        "server": list(samples),
    }


def _tier_timeline(records: Sequence[Record], edges: Any, step_s: float) -> dict[str, list[float]]:
    refusals = [refusal.ended_s for record in records for refusal in record.refusals]
    errors = [r.ended_s for r in records if r.outcome is Outcome.ERROR and r.ended_s is not None]
    tokens, weights = _token_times(records)
    begun = np.sort([r.first_sent_s for r in records if r.first_sent_s is not None])
    ended = np.sort([r.ended_s for r in records if r.ended_s is not None])

    def per_s(times: Any, weight: Any = None) -> list[float]:
        return (np.histogram(times, edges, weights=weight)[0] / step_s).round(3).tolist()

    in_flight = np.searchsorted(begun, edges[1:]) - np.searchsorted(ended, edges[1:])
    return {
        "arrivals_per_s": per_s([r.planned_s for r in records]),
        "refusals_per_s": per_s(refusals),
        "errors_per_s": per_s(errors),
        "tokens_per_s": per_s(tokens, weights),
        "in_flight": in_flight.tolist(),
    }


def _token_times(records: Sequence[Record]) -> tuple[Any, Any]:
    """When chunks came, and how many tokens each stands for where the usage says more."""
    streamed = [record for record in records if record.token_s]
    if not streamed:
        return np.array([]), np.array([])
    times = np.concatenate([np.asarray(record.token_s) for record in streamed])
    weights = [(r.output_tokens or len(r.token_s)) / len(r.token_s) for r in streamed]
    return times, np.repeat(weights, [len(record.token_s) for record in streamed])


def _most_in_each(lag: tuple[Any, Any], edges: Any) -> list[float]:
    at_s, lag_s = (np.asarray(values, dtype=float) for values in lag)
    most = np.zeros(len(edges) - 1)
    places = np.searchsorted(edges, at_s, side="right") - 1
    inside = (places >= 0) & (places < len(most))
    np.maximum.at(most, places[inside], lag_s[inside])
    return most.round(6).tolist()


def _rate(count: float, window_s: float) -> float | None:
    return round(count / window_s, 4) if window_s else None


def retries_kept(records: Sequence[Record]) -> dict[str, Any]:
    """Of refused requests: their Retry-After, and what the first retry brought. Without retries
    the server's promise is not tested: the fraction is None."""
    refused = [record for record in records if record.refusals]
    waits_s = [r.retry_after_s for record in refused for r in record.refusals]
    retried = [r for r in refused if r.sent_s is not None and r.sent_s > r.refusals[0].sent_s]
    ended = [r for r in retried if len(r.refusals) > 1 or r.outcome is not Outcome.UNFINISHED]
    kept = [record for record in ended if len(record.refusals) == 1 and record.served]
    again = [record for record in ended if len(record.refusals) > 1]
    return {
        "refused_requests": len(refused),
        "without_retry_after": sum(wait_s is None for wait_s in waits_s),
        "told_s": spread(waits_s),
        "came_back": len(retried),
        "served_at_first_return": len(kept),
        "refused_again": len(again),
        "failed_at_return": len(ended) - len(kept) - len(again),
        "kept_share": round(len(kept) / len(ended), 4) if ended else None,
    }


def is_good(record: Record, slo: Slo) -> bool:
    """Served, and within each limit that is set. A request that was retried after refusals is
    measured from its first attempt, as its user does. As in `vllm.benchmarks.serve`, an answer of
    one token has a TPOT of 0."""
    if not record.served:
        return False
    retried_s = record.retried_for_s
    measured = (
        (slo.ttft, record.ttft_s, retried_s),
        (slo.ttfo, record.ttfo_s, retried_s),
        (slo.e2e, record.e2e_s, retried_s),
        (slo.tpot, record.tpot_s or 0.0, 0.0),
    )
    return all(
        limit_s is None or (value_s is not None and value_s + more_s <= limit_s)
        for limit_s, value_s, more_s in measured
    )
