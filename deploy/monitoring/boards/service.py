"""The dashboard of what users get."""

from deploy.monitoring.board import SELECTED, Board, Panel, Query, Row, Source

S, RATE = SELECTED, "[$__rate_interval]"


def service_board() -> Board:
    """Answers, refusals, latency, tokens."""
    return Board(
        "tierserve-service",
        "tierserve: service",
        "What users get of each tier: answers, refusals, latency, tokens.",
        (
            Row("Now", _now()),
            Row("Requests", _requests()),
            Row("Lost replicas", _lost_replicas()),
            Row("Resumable streams", _resumable_streams()),
            Row("Latency", _latency()),
            _tokens(),
        ),
    )


def _now() -> tuple[Panel, ...]:
    return (
        Panel(
            "Alerts firing",
            "short",
            (
                Query(
                    'count by (alertname, tier, severity) (ALERTS{alertname=~"Tierserve.*",'
                    'alertstate="firing"})',
                    "{{alertname}} {{tier}} ({{severity}})",
                ),
            ),
            "docs/monitoring.md has what to do, under the alert's name.",
            now=True,
            width=6,
            limits=(0.5, 1),
            none="none",
        ),
        Panel(
            "Replicas that report",
            "short",
            (Query(f"tierserve_replicas_reporting{{{S}}}", "{{tier}}"),),
            "0 is right only for a tier that is scaled to zero.",
            now=True,
            width=4,
            limits=(1, 0.5),
        ),
        Panel(
            "Requests refused, last hour",
            "percentunit",
            (Query(f"tier:tierserve_requests_refused:ratio_rate1h{{{S}}}", "{{tier}}"),),
            "Answered 429. The promise is at most 1 % in a month. No data: no request.",
            now=True,
            width=5,
            limits=(0.01, 0.144),
        ),
        Panel(
            "Requests failed, last hour",
            "percentunit",
            (Query(f"tier:tierserve_requests_failed:ratio_rate1h{{{S}}}", "{{tier}}"),),
            "Answered 5xx by a replica. The promise is at most 0.1 % in a month.",
            now=True,
            width=5,
            limits=(0.001, 0.0144),
        ),
        Panel(
            "First tokens late, last hour",
            "percentunit",
            (Query(f"tier:tierserve_ttft_late:ratio_rate1h{{{S}}}", "{{tier}}"),),
            "After 2.5 s (chat) or 10 s (reasoning). The promise is at most 5 % in a month.",
            now=True,
            width=4,
            limits=(0.05, 0.72),
        ),
    )


def _requests() -> tuple[Panel, ...]:
    return (
        Panel(
            "Requests by status",
            "reqps",
            (
                Query(
                    f"sum by (tier, status) (rate(tierserve_requests_total{{{S}}}{RATE}))",
                    "{{tier}} {{status}}",
                ),
            ),
            "As replicas answered them. 429: refused by admission. 499: the client left.",
            stacked=True,
        ),
        Panel(
            "Refusals by reason",
            "reqps",
            (
                Query(
                    f"sum by (tier, reason) (rate(tierserve_refused_total{{{S}}}{RATE}))",
                    "{{tier}} {{reason}}",
                ),
            ),
            "queue_full: the line has its length. wait_too_long: the wait would exceed max_wait_s.",
        ),
        Panel(
            "Goodput: streams begun in time",
            "reqps",
            (Query(f"tier:tierserve_goodput:rate5m{{{S}}}", "{{tier}}"),),
            "Streams a second whose first token came within 2.5 s (chat) or 10 s (reasoning). "
            "Requests that meet several limits at once are counted by a load test only.",
        ),
        Panel(
            "Errors at the door",
            "reqps",
            (
                Query(
                    "sum by (application, error_code) "
                    f"(rate(ray_serve_num_http_error_requests_total{RATE}))",
                    "{{application}} {{error_code}}",
                    Source.RAY,
                ),
            ),
            "By Ray's HAProxy, with requests that reached no replica: a 503 here that is not among "
            "the requests by status found nobody.",
        ),
        Panel(
            "Clients that left",
            "reqps",
            (
                Query(
                    f"sum by (tier) (rate(tierserve_disconnected_total{{{S}}}{RATE}))", "{{tier}}"
                ),
            ),
            "Before the end of their answer. Many of them while the wait is long: impatience.",
        ),
        Panel(
            "Requests passed to another replica",
            "reqps",
            (Query(f"sum by (tier) (rate(tierserve_relayed_total{{{S}}}{RATE}))", "{{tier}}"),),
            "The head of a line went where there was room.",
        ),
    )


def _lost_replicas() -> tuple[Panel, ...]:
    gaps = "rate(tierserve_replay_gap_seconds_bucket[15m])"
    return (
        Panel(
            "Requests of /v1 whose replica was lost or drained",
            "short",
            (
                Query(
                    f"sum by (tier, result) (increase(tierserve_replays_total{{{S}}}{RATE}))",
                    "{{tier}} {{result}}",
                ),
            ),
            "By what became of them. given_up: the client got an error. docs/continuity.md.",
            stacked=True,
        ),
        Panel(
            "Requests held",
            "short",
            (Query(f"sum by (tier) (tierserve_held_requests{{{S}}})", "{{tier}}"),),
            "Their replica is gone, and none continues them yet; streams get heartbeats meanwhile.",
        ),
        Panel(
            "Gap until a stream went on",
            "s",
            tuple(
                Query(
                    f"histogram_quantile({quantile}, sum by (le) ({gaps}))",
                    f"p{round(100 * quantile)}",
                )
                for quantile in (0.5, 0.95)
            ),
            "From the loss of its replica to its next event, over a quarter of an hour. No data: "
            "no stream was lost.",
        ),
    )


def _resumable_streams() -> tuple[Panel, ...]:
    """Those of `/v1` are counted by its processes, which have no tier."""
    return (
        Panel(
            "Resumable streams by what became of them",
            "short",
            (
                Query(
                    f"sum by (result) (increase(tierserve_kept_streams_total{RATE}))", "{{result}}"
                ),
            ),
            "resumed: a client came back. expired: the usual end. client_gone, too_many_away: "
            "cancelled without a client. forgotten, outgrown, not_kept: no memory. "
            "docs/continuity.md. Of all tiers.",
            stacked=True,
        ),
        Panel(
            "Streams without a client",
            "short",
            (Query("sum by (tier, replica) (tierserve_away_streams)", "{{tier}} {{replica}}"),),
            "They run on for a while and hold their slots. Those of /v1 have no name here.",
        ),
        Panel(
            "Memory of resumable streams",
            "bytes",
            (
                Query(
                    "sum by (gateway, replica) (tierserve_kept_stream_bytes)",
                    "{{gateway}}{{replica}}",
                ),
            ),
            "Of each process, of max_kept_mib.",
        ),
    )


def _latency() -> tuple[Panel, ...]:
    quantiles = (
        (
            "Time to first token",
            "ttft",
            "Of streams, the wait in the line included. No data: none.",
        ),
        ("Gap between chunks (ITL)", "itl", "p99 shows what disturbs a stream: long prompts."),
        ("Wait for a slot", "queue_wait", "Of the requests that got one."),
    )
    return tuple(
        Panel(
            title,
            "s",
            (Query(f"tier:tierserve_{name}_seconds:quantile5m{{{S}}}", "{{tier}} p{{quantile}}"),),
            f"{text} Quantiles over five minutes, interpolated within histogram buckets.",
        )
        for title, name, text in quantiles
    )


def _tokens() -> Row:
    return Row(
        "Tokens",
        (
            Panel(
                "Tokens generated",
                "short",
                (Query(f"tier:tierserve_output_tokens:rate1m{{{S}}}", "{{tier}} tokens/s"),),
                "A second, of all replicas of the tier.",
            ),
            Panel(
                "Prompt tokens",
                "short",
                (
                    Query(
                        f"sum by (tier) (rate(vllm:prompt_tokens_total{{{S}}}{RATE}))",
                        "{{tier}} tokens/s",
                    ),
                ),
                "A second, those found in the prefix cache included.",
            ),
            Panel(
                "Thoughts by how they ended",
                "reqps",
                (
                    Query(
                        f"sum by (tier, end) (rate(tierserve_thoughts_total{{{S}}}{RATE}))",
                        "{{tier}} {{end}}",
                    ),
                ),
                "docs/reasoning.md has the ends. Many that were closed: the budget is short.",
            ),
        ),
    )
