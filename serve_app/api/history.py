"""The last hour of each tier, as its status was every few seconds: for the page's charts.

One question to the replicas for each sample, whoever looks; kept in memory, and gone with the
process.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from serve_app.core.histogram import quantile
from serve_app.telemetry import TTFT_BUCKETS_S, WAIT_BUCKETS_S

PERIOD_S = 5.0
KEPT_S = 3600.0
# Quantiles and refusals are those of the last minute: one period alone has few requests.
WINDOW_S = 60.0
log = logging.getLogger(__name__)

Described = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Observed:
    """Of one replica since its start: cumulative counts by bound, and requests refused."""

    ttft: tuple[int, ...]
    queue_wait: tuple[int, ...]
    refused: int

    def since(self, before: "Observed") -> "Observed":
        """What came after `before`."""
        return Observed(
            _less(self.ttft, before.ttft),
            _less(self.queue_wait, before.queue_wait),
            self.refused - before.refused,
        )


@dataclass(frozen=True, slots=True)
class TierSample:
    """A tier at one time; None is what nobody knew, or what no request had."""

    replicas: int
    running: int | None
    slots: int | None
    queue_depth: int | None
    output_tokens_per_s: float | None
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    queue_wait_p50_s: float | None
    queue_wait_p95_s: float | None
    refused: int
    answered: int


@dataclass(frozen=True, slots=True)
class StatusSample:
    """`at_s`: seconds since the epoch."""

    at_s: float
    tiers: Mapping[str, TierSample]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(slots=True)
class StatusHistory:
    """Samples what `describe` answers, from the first time that somebody asks for it."""

    describe: Callable[[], Awaitable[Described]]
    clock_s: Callable[[], float] = time.time
    _samples: deque[StatusSample] = field(
        default_factory=lambda: deque[StatusSample](maxlen=int(KEPT_S / PERIOD_S))
    )
    # By tier and replica, of the last window.
    _observed: deque[tuple[float, Mapping[tuple[str, str], Observed]]] = field(
        default_factory=deque[tuple[float, Mapping[tuple[str, str], Observed]]]
    )
    _task: "asyncio.Task[None] | None" = None

    def start(self) -> None:
        """Sample from now on; nothing happens where it has begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def samples(self, since_s: float = 0.0) -> list[StatusSample]:
        """Those that are newer than `since_s`, the oldest first."""
        return [sample for sample in self._samples if sample.at_s > since_s]

    def take(self, described: Described) -> StatusSample:
        """One more sample: `described` has the entries of `/api/tiers` now."""
        at_s = self.clock_s()
        observed = _observed(described)
        while self._observed and self._observed[0][0] < at_s - WINDOW_S:
            self._observed.popleft()
        before = self._observed[0][1] if self._observed else observed
        self._observed.append((at_s, observed))
        recent = {
            replica: seen.since(before[replica]) if replica in before else seen
            for replica, seen in observed.items()
        }
        tiers = {
            entry["tier"]: _sample(entry, [o for (t, _), o in recent.items() if t == entry["tier"]])
            for entry in described
        }
        sample = StatusSample(round(at_s, 3), tiers)
        self._samples.append(sample)
        return sample

    async def _run(self) -> None:
        while True:
            try:
                self.take(await self.describe())
            except Exception:
                log.warning("no sample of the tiers' status", exc_info=True)
            await asyncio.sleep(PERIOD_S)


def _observed(described: Described) -> dict[tuple[str, str], Observed]:
    """A replica of a release before this one reports none."""
    return {
        (entry["tier"], replica["replica"]): Observed(
            tuple(seen["ttft"]), tuple(seen["queue_wait"]), seen["refused"]
        )
        for entry in described
        for replica in entry["replicas"]
        if (seen := replica.get("observed")) is not None
    }


def _sample(entry: Mapping[str, Any], observed: Sequence[Observed]) -> TierSample:
    ttft = _summed([each.ttft for each in observed])
    wait = _summed([each.queue_wait for each in observed])
    return TierSample(
        replicas=entry["replicas_running"],
        running=entry["running"],
        slots=entry["slots"],
        queue_depth=entry["queue_depth"],
        output_tokens_per_s=entry["output_tokens_per_s"],
        ttft_p50_s=_rounded(quantile(TTFT_BUCKETS_S, ttft, 0.5)) if ttft else None,
        ttft_p95_s=_rounded(quantile(TTFT_BUCKETS_S, ttft, 0.95)) if ttft else None,
        queue_wait_p50_s=_rounded(quantile(WAIT_BUCKETS_S, wait, 0.5)) if wait else None,
        queue_wait_p95_s=_rounded(quantile(WAIT_BUCKETS_S, wait, 0.95)) if wait else None,
        refused=sum(each.refused for each in observed),
        answered=ttft[-1] if ttft else 0,
    )


def _less(now: tuple[int, ...], before: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(new - old for new, old in zip(now, before, strict=True))


def _summed(counts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sum(column) for column in zip(*counts, strict=True))


def _rounded(value_s: float | None) -> float | None:
    return None if value_s is None else round(value_s, 4)
