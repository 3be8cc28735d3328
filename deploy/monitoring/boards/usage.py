"""The dashboard of who uses how much, where API keys are on."""

from deploy.monitoring.board import SELECTED, Board, Panel, Query, Row, Source

S, RANGE, RATE = SELECTED, "[$__range]", "[$__rate_interval]"
KEYS = Source.KEYS
_OTHER = "`other`: the keys beyond `args.usage.labelled_keys`."


def usage_board() -> Board:
    """Requests, tokens, GPU time and cost by key; what keys are refused, and their days."""
    return Board(
        "tierserve-usage",
        "tierserve: usage",
        "Who uses how much: by the name of the API key. Counted by the ledger, over all replicas.",
        (Row("In this time", _sums()), Row("Over time", _rates()), Row("Limits", _limits())),
    )


def _by_key(metric: str, span: str, function: str, more: str = "") -> str:
    return f"sum by (key{more}) ({function}(tierserve_key_{metric}{{{S}}}{span}))"


def _sums() -> tuple[Panel, ...]:
    return (
        Panel(
            "Requests",
            "short",
            (Query(_by_key("requests_total", RANGE, "increase"), "{{key}}", KEYS),),
            f"Served in the time that is shown. {_OTHER}",
            now=True,
        ),
        Panel(
            "Tokens",
            "short",
            (Query(_by_key("tokens_total", RANGE, "increase"), "{{key}}", KEYS),),
            "Of prompts, reasoning and answers, in the time that is shown.",
            now=True,
        ),
        Panel(
            "Cost",
            "short",
            (
                Query(
                    f"{_by_key('gpu_seconds_total', RANGE, 'increase')} / 3600 "
                    "* scalar(max(tierserve_price_per_gpu_hour))",
                    "{{key}}",
                    KEYS,
                ),
            ),
            "GPU time at `args.usage.price_per_gpu_hour`, in its currency. No data: none is set.",
            now=True,
        ),
    )


def _rates() -> tuple[Panel, ...]:
    return (
        Panel(
            "Tokens by key",
            "short",
            (Query(_by_key("tokens_total", RATE, "rate"), "{{key}} tokens/s", KEYS),),
            f"A second, of prompts, reasoning and answers. {_OTHER}",
            stacked=True,
        ),
        Panel(
            "GPUs by key",
            "short",
            (Query(_by_key("gpu_seconds_total", RATE, "rate"), "{{key}}", KEYS),),
            "GPU seconds a second: the slots that its requests hold, as a part of all slots.",
            stacked=True,
        ),
        Panel(
            "Requests by key and tier",
            "reqps",
            (Query(_by_key("requests_total", RATE, "rate", ", tier"), "{{key}} {{tier}}", KEYS),),
            "Served, as the ledger counts them.",
            stacked=True,
        ),
    )


def _limits() -> tuple[Panel, ...]:
    return (
        Panel(
            "Of the day's tokens",
            "percentunit",
            (
                Query(
                    'max by (key) (tierserve_key_day_tokens_used_ratio{instance=~"$instance"})',
                    "{{key}}",
                    KEYS,
                ),
            ),
            "What keys with `tokens_per_day` have used since midnight UTC. At 1 they get 429.",
        ),
        Panel(
            "Refused by key",
            "reqps",
            (Query(_by_key("refused_total", RATE, "rate"), "{{key}}", KEYS),),
            "Over a quota, or by a full tier.",
        ),
        Panel(
            "Refused without a valid key",
            "reqps",
            (
                Query(
                    f"sum by (reason) (rate(tierserve_keys_refused_total{{{S}}}{RATE}))",
                    "{{reason}}",
                    KEYS,
                ),
            ),
            "unknown: mistyped, expired, revoked, or guessed. The log has no more of it.",
        ),
    )
