"""`x-ratelimit-*` as OpenAI's clients read them, and `anthropic-ratelimit-*` as Anthropic's do."""

from collections.abc import Iterator
from datetime import UTC, datetime

from serve_app.core.access.access_key import KeyLimits
from serve_app.core.access.lease import KeyBalance


def limit_headers(
    limits: KeyLimits, balance: KeyBalance | None, now_s: float, *, anthropic: bool
) -> list[tuple[bytes, bytes]]:
    """Of requests and of tokens, where they have a limit. Of two limits of tokens, the one of a
    minute; what remains is the smaller of both. `now_s` is a Unix time."""
    left = balance or KeyBalance(limits.requests_per_minute, _tokens(limits))
    counted = (
        (b"requests", limits.requests_per_minute, left.remaining_requests, left.reset_requests_s),
        (b"tokens", _tokens(limits), left.remaining_tokens, left.reset_tokens_s),
    )
    headers: list[tuple[bytes, bytes]] = []
    for what, limit, remaining, reset_s in counted:
        if limit is None:
            continue
        remaining = limit if remaining is None else max(0, min(limit, remaining))
        headers += _openai(what, limit, remaining, reset_s)
        if anthropic:
            headers += _anthropic(what, limit, remaining, now_s + reset_s)
    return headers


def _tokens(limits: KeyLimits) -> int | None:
    return limits.tokens_per_day if limits.tokens_per_minute is None else limits.tokens_per_minute


def _openai(
    what: bytes, limit: int, remaining: int, reset_s: float
) -> Iterator[tuple[bytes, bytes]]:
    yield b"x-ratelimit-limit-" + what, b"%d" % limit
    yield b"x-ratelimit-remaining-" + what, b"%d" % remaining
    yield b"x-ratelimit-reset-" + what, duration(reset_s)


def _anthropic(
    what: bytes, limit: int, remaining: int, reset_at_s: float
) -> Iterator[tuple[bytes, bytes]]:
    at = datetime.fromtimestamp(reset_at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    yield b"anthropic-ratelimit-" + what + b"-limit", b"%d" % limit
    yield b"anthropic-ratelimit-" + what + b"-remaining", b"%d" % remaining
    yield b"anthropic-ratelimit-" + what + b"-reset", at.encode()


def duration(seconds: float) -> bytes:
    """As OpenAI writes it, which is as Go does: `20ms`, `1.5s`, `6m0s`, `1h2m3s`."""
    if seconds < 1:
        return b"%dms" % max(0, round(seconds * 1000))
    hours, rest_s = divmod(seconds, 3600)
    minutes, rest_s = divmod(rest_s, 60)
    if not hours and not minutes:
        return f"{rest_s:.3f}".rstrip("0").rstrip(".").encode() + b"s"
    parts = [f"{int(hours)}h"] if hours else []
    return "".join([*parts, f"{int(minutes)}m{int(rest_s)}s"]).encode()
