"""Metric names and JSON logs. Label values come from closed sets, never from clients."""

import json
import logging
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from serve_app.errors import RequestError

PREFIX = "tierserve"
WAIT_BUCKETS_S = (0.005, 0.05, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60)
TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40)
ITL_BUCKETS_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
GAP_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40, 60)
E2E_BUCKETS_S = (0.1, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


class TokenHistogram(Collector):
    """A histogram for what is observed with every token. The client library's own takes two locks
    and eight calls for each value; this one belongs to the event loop alone."""

    def __init__(self, name: str, text: str, buckets: tuple[float, ...]) -> None:
        self._name, self._text, self._bounds = name, text, buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        bounds = [floatToGoString(bound) for bound in (*self._bounds, float("inf"))]
        buckets = list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
        yield HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum)


@dataclass(frozen=True, slots=True)
class TierMetrics:
    """The metrics of one replica. `tier` and `replica` are added by whoever collects them."""

    requests: Counter
    refused: Counter
    deadlines: Counter
    keys_refused: Counter
    relayed: Counter
    borrowed: Counter
    lent: Counter
    disconnected: Counter
    stalled: Counter
    left_streams: Counter
    resumed_streams: Counter
    replay_mismatches: Counter
    settings_refused: Counter
    settings_invalid: Gauge
    ledger_up: Gauge
    output_tokens: Counter
    thoughts: Counter
    thought_tokens: Counter
    repetitions: Counter
    cache: Counter
    structures: Counter
    prefix_hit_rate: Gauge
    prefix_choices: Counter
    prefix_saved_tokens: Counter
    running: Gauge
    borrowed_sequences: Gauge
    lent_sequences: Gauge
    queue_depth: Gauge
    engine_waiting: Gauge
    slots: Gauge
    service_s: Gauge
    startup_s: Gauge
    patch_active: Gauge
    queue_wait_s: Histogram
    ttft_s: Histogram
    itl_s: TokenHistogram
    e2e_s: Histogram
    # As in `KeptStreamMetrics`.
    kept_streams: Counter
    kept_stream_bytes: Gauge
    away_streams: Gauge


def make_tier_metrics(registry: CollectorRegistry) -> TierMetrics:
    """Register the metrics of a replica."""

    def counter(name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=registry)

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, labels, registry=registry)

    def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, buckets=buckets, registry=registry)

    itl_s = TokenHistogram(f"{PREFIX}_itl_seconds", "Gap between streamed chunks.", ITL_BUCKETS_S)
    registry.register(itl_s)
    kept = make_kept_stream_metrics(registry)
    return TierMetrics(
        requests=counter("requests", "Requests answered.", "endpoint", "status"),
        refused=counter("refused", "Requests refused by admission.", "reason"),
        deadlines=counter(
            "deadlines",
            "Requests with a deadline, by what became of it: met, cut (in time, with an answer "
            "that it ended), missed, refused.",
            "result",
        ),
        keys_refused=counter(
            "keys_refused", "Requests without a key that may do what they ask, by why.", "reason"
        ),
        relayed=counter("relayed", "Requests passed to another replica, of any tier."),
        borrowed=counter("borrowed", "Requests that another tier's replica ran.", "lender"),
        lent=counter("lent", "Requests of another tier that this replica ran.", "borrower"),
        disconnected=counter("disconnected", "Clients that went away before the end."),
        stalled=counter("stalled", "Of those, clients that took nothing for too long."),
        left_streams=counter(
            "left_streams",
            "Streams that ended here before their end and may go on at another replica, by why.",
            "reason",
        ),
        resumed_streams=counter(
            "resumed_streams", "Streams of another replica that went on at this one."
        ),
        replay_mismatches=counter(
            "replay_mismatches",
            "Streams that went on without the events that their clients had coming again.",
        ),
        settings_refused=counter("settings_refused", "Live settings refused as invalid."),
        settings_invalid=gauge(
            "settings_invalid", "1 while the newest live settings are refused, and older ones hold."
        ),
        ledger_up=gauge(
            "ledger_up", "0 while the ledger of quotas does not answer; 1 where keys are off."
        ),
        output_tokens=counter("output_tokens", "Tokens generated."),
        thoughts=counter("thoughts", "Thoughts, by how they ended.", "end"),
        thought_tokens=counter("thought_tokens", "Tokens of thoughts."),
        repetitions=counter("repetitions", "Answers ended because they repeated themselves."),
        cache=counter("answer_cache_requests", "Requests looked for in the cache.", "result"),
        structures=counter(
            "structures", "Schemas and grammars that clients asked for, by result.", "result"
        ),
        prefix_hit_rate=gauge(
            "prefix_cache_hit_rate",
            "Share of prompt tokens found in the engine's prefix cache, since its start.",
        ),
        prefix_choices=counter(
            "prefix_choices",
            "Requests by where they run for the sake of their prefix: found or placed at another "
            "replica, or here, by why.",
            "reason",
        ),
        prefix_saved_tokens=counter(
            "prefix_saved_tokens",
            "Prompt tokens that another replica had, of requests forwarded for them: an estimate.",
        ),
        running=gauge("running_sequences", "Sequences that hold a slot."),
        borrowed_sequences=gauge(
            "borrowed_sequences", "Sequences of this tier in slots of another one."
        ),
        lent_sequences=gauge("lent_sequences", "Sequences of another tier in slots of this one."),
        queue_depth=gauge("queue_depth", "Requests accepted and not yet computing."),
        engine_waiting=gauge("engine_waiting", "Requests waiting inside the engine."),
        slots=gauge("slots", "Sequences that may run at once."),
        service_s=gauge("service_seconds", "Mean time that a request holds its slot."),
        startup_s=gauge("startup_seconds", "Duration of a start-up phase.", "phase"),
        patch_active=gauge(
            "vllm_patch_active",
            "1 where a patch or fast path of vLLM is installed, 0 where this vLLM is not as it "
            "expects.",
            "patch",
        ),
        queue_wait_s=histogram("queue_wait_seconds", "Wait for a slot.", WAIT_BUCKETS_S),
        ttft_s=histogram("ttft_seconds", "Time to the first streamed token.", TTFT_BUCKETS_S),
        itl_s=itl_s,
        e2e_s=histogram("e2e_seconds", "Whole request, waiting included.", E2E_BUCKETS_S),
        kept_streams=kept.results,
        kept_stream_bytes=kept.size_bytes,
        away_streams=kept.away,
    )


@dataclass(frozen=True, slots=True)
class KeptStreamMetrics:
    """Of the streams of one process that their clients may come back to. `results` by `result`."""

    results: Counter
    size_bytes: Gauge
    away: Gauge


# What became of a resumable stream: its client came back, no client came, too many others of its
# caller ran without one, another process has taken it up, its time after its end was over, it gave
# way to others, no memory was left for it, or none to begin with.
KEPT_STREAM_RESULTS = (
    *("resumed", "client_gone", "too_many_away", "moved"),
    *("expired", "forgotten", "outgrown", "not_kept"),
)


def make_kept_stream_metrics(registry: CollectorRegistry) -> KeptStreamMetrics:
    """Register the metrics of resumable streams; each result is there from the begin."""
    results = Counter(
        f"{PREFIX}_kept_streams",
        "What became of streams that their clients may come back to, and clients that came.",
        ("result",),
        registry=registry,
    )
    for result in KEPT_STREAM_RESULTS:
        results.labels(result=result)
    size_bytes = Gauge(
        f"{PREFIX}_kept_stream_bytes",
        "Memory for the events of streams that their clients may come back to.",
        registry=registry,
    )
    away = Gauge(
        f"{PREFIX}_away_streams",
        "Of those, streams that run on while no client reads them.",
        registry=registry,
    )
    return KeptStreamMetrics(results, size_bytes, away)


@dataclass(frozen=True, slots=True)
class GatewayMetrics:
    """The metrics of one gateway process. `gateway` is added by whoever collects them."""

    replays: Counter
    held: Gauge
    journal_bytes: Gauge
    gap_s: Histogram
    kept: KeptStreamMetrics


# What became of a request whose replica was lost, or handed it over.
REPLAY_RESULTS = ("continued", "asked_again", "handed_over", "not_handed_over", "given_up")


def make_gateway_metrics(
    registry: CollectorRegistry,
    tiers: Iterable[str],
    journal_bytes: Callable[[], float],
) -> GatewayMetrics:
    """Register the metrics of a gateway."""
    replays = Counter(
        f"{PREFIX}_replays",
        "Requests whose replica was lost, or handed them over, by what became of them.",
        ("tier", "result"),
        registry=registry,
    )
    held = Gauge(
        f"{PREFIX}_held_requests",
        "Requests whose replica was lost, and that none continues yet.",
        ("tier",),
        registry=registry,
    )
    for tier in tiers:
        held.labels(tier=tier)
        for result in REPLAY_RESULTS:
            replays.labels(tier=tier, result=result)
    journals = Gauge(
        f"{PREFIX}_journal_bytes",
        "Memory for what running streams would need to go on at another replica.",
        registry=registry,
    )
    journals.set_function(journal_bytes)
    gap_s = Histogram(
        f"{PREFIX}_replay_gap_seconds",
        "From the loss or the offer of a stream's replica to its next event.",
        buckets=GAP_BUCKETS_S,
        registry=registry,
    )
    return GatewayMetrics(replays, held, journals, gap_s, make_kept_stream_metrics(registry))


def cumulative_counts(histogram: Histogram) -> list[int]:
    """How many values were at most each bound, and last how many there were."""
    (family,) = histogram.collect()
    return [int(each.value) for each in family.samples if each.name.endswith("_bucket")]


def counted(counter: Counter) -> int:
    """Over all labels."""
    (family,) = counter.collect()
    return int(sum(each.value for each in family.samples if each.name.endswith("_total")))


class ClientErrorFilter(logging.Filter):
    """vLLM logs whatever ends a stream as an error, with a traceback. Where that is a client's
    error, a line at INFO says so."""

    def filter(self, record: logging.LogRecord) -> bool:
        """True: nothing is dropped."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and _is_clients(error):
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args = f"{record.msg} {type(error).__name__}", ()
            record.exc_info = record.exc_text = None
        return True


def _is_clients(error: BaseException) -> bool:
    if isinstance(error, RequestError):
        return error.status < 500
    # By name, so that vLLM is not imported here.
    return any(kind.__name__ == "VLLMClientError" for kind in type(error).__mro__)


def logging_config(level: str = "INFO", **fields: str) -> dict[str, Any]:
    """A `logging.config.dictConfig` that writes JSON lines with `fields` to stdout."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "fmt": "%(levelname)s %(name)s %(message)s",
                "rename_fields": {"levelname": "level", "name": "logger"},
                "static_fields": fields,
                "timestamp": True,
            }
        },
        "filters": {"client_errors": {"()": "serve_app.telemetry.ClientErrorFilter"}},
        "handlers": {
            "stdout": {
                "filters": ["client_errors"],
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "json",
            }
        },
        "root": {"level": level, "handlers": ["stdout"]},
        "loggers": {
            "httpx": {"level": "WARNING"},
            # A line every ten seconds of what the metrics say better.
            "vllm.v1.metrics.loggers": {"level": "WARNING"},
            # Not left to the root logger: building vLLM's application sets that one to ERROR.
            "serve_app": {"level": level, "handlers": ["stdout"], "propagate": False},
            "vllm": {"level": level, "handlers": ["stdout"], "propagate": False},
        },
    }


def write_logging_config(config: dict[str, Any]) -> str:
    """Path of a file with this configuration, for processes that read theirs from one."""
    with tempfile.NamedTemporaryFile("w", prefix="logging-", suffix=".json", delete=False) as file:
        json.dump(config, file)
    return file.name
