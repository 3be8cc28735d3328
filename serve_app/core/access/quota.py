"""One key's quota as the ledger keeps it: two buckets that refill by the minute, and a UTC day.

What is leased is drawn at once, so that all leases together never exceed what is there; what comes
back unused is put back. Concurrency is not drawn: the leases themselves are counted.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import lru_cache

from serve_app.core.access.access_key import KeyLimits
from serve_app.core.access.lease import NOTHING, Amounts, KeyBalance, Refusal
from serve_app.core.access.token_bucket import TokenBucket, full_bucket

# More than anything is asked for, and small enough to be summed in 64 bits.
UNLIMITED = 2**50
# A request that ends makes room for the next one; nobody knows when.
CONCURRENCY_RETRY_S = 1.0
# Below this part of a limit, leases are what a request needs and no more.
SCARCE_FRACTION = 1 / 8
# A lease is at most this part of what is left for each replica.
LEASE_FRACTION = 1 / 4
# Or one request, where so many for each replica are left.
REQUESTS_LEFT = 2
DAY_S = 86_400.0


def utc_day(now_s: float) -> str:
    """`2026-11-29`, of a Unix time."""
    return _day(int(now_s // DAY_S))


@lru_cache(maxsize=4)
def _day(days: int) -> str:
    return (date(1970, 1, 1) + timedelta(days)).isoformat()


def limited(amounts: Amounts, limits: KeyLimits) -> Amounts:
    """What of `amounts` has to be leased: nothing of what has no limit."""
    tokens = limits.tokens_per_minute is not None or limits.tokens_per_day is not None
    return Amounts(
        requests=amounts.requests if limits.requests_per_minute is not None else 0,
        tokens=amounts.tokens if tokens else 0,
        concurrent=amounts.concurrent if limits.max_concurrent is not None else 0,
    )


@dataclass(frozen=True, slots=True)
class Quota:
    """`day_tokens` are drawn of `day`'s; a bucket is None without its limit."""

    limits: KeyLimits
    requests: TokenBucket | None
    tokens: TokenBucket | None
    day: str
    day_tokens: int = 0

    def at(self, now_s: float, idle: Amounts) -> "Quota":
        """At Unix time `now_s`: refilled, and on a new day with nothing drawn but the leases that
        lie idle. `idle` is what all replicas hold and no request has reserved."""
        day, day_tokens = utc_day(now_s), self.day_tokens
        if not _follows(day, self.day):
            day = self.day
        elif day != self.day:
            day_tokens = idle.tokens
        return Quota(
            self.limits,
            self.requests and self.requests.refilled(now_s, idle.requests),
            self.tokens and self.tokens.refilled(now_s, idle.tokens),
            day,
            day_tokens,
        )

    def drawn(self, amounts: Amounts) -> "Quota":
        """With `amounts` leased, or spent without a lease."""
        if amounts == NOTHING:
            return self
        return Quota(
            self.limits,
            self.requests and self.requests.drawn(amounts.requests),
            self.tokens and self.tokens.drawn(amounts.tokens),
            self.day,
            self.day_tokens + amounts.tokens,
        )

    def used_unleased(self, amounts: Amounts) -> "Quota":
        """With `amounts` that were served while the ledger was lost. All of it is of the day; the
        minutes in which it was used have passed, so that their buckets are emptied at most."""
        return replace(
            self,
            requests=self.requests and self.requests.emptied_by(amounts.requests),
            tokens=self.tokens and self.tokens.emptied_by(amounts.tokens),
            day_tokens=self.day_tokens + amounts.tokens,
        )

    def put_back(self, amounts: Amounts, *, day_tokens: int) -> "Quota":
        """With `amounts` unused; `day_tokens` of them were drawn of this day's."""
        if amounts == NOTHING:
            return self
        back = self.drawn(NOTHING - amounts)
        return replace(back, day_tokens=max(0, self.day_tokens - day_tokens))

    def with_limits(self, limits: KeyLimits, now_s: float) -> "Quota":
        """With other limits: what was drawn stays drawn, a limit that is new begins full."""
        return replace(
            self,
            limits=limits,
            requests=_resized(self.requests, limits.requests_per_minute, now_s),
            tokens=_resized(self.tokens, limits.tokens_per_minute, now_s),
        )

    def rest(self, leased_concurrent: int) -> Amounts:
        """What can be leased now; negative where a limit was lowered below what is out."""
        tokens = math.floor(self.tokens.level) if self.tokens else UNLIMITED
        return Amounts(
            requests=math.floor(self.requests.level) if self.requests else UNLIMITED,
            tokens=min(tokens, self._day_rest()),
            concurrent=_less(self.limits.max_concurrent, leased_concurrent),
        )

    def scarce(self, leased_concurrent: int) -> bool:
        """Whether so little is left that nothing may lie idle at a replica."""
        rest = self.rest(leased_concurrent)
        minute = self.limits.tokens_per_minute
        day = self.limits.tokens_per_day
        return (
            _scarce(rest.requests, self.limits.requests_per_minute)
            or _scarce(rest.tokens, minute)
            or _scarce(self._day_rest(), day)
            or _scarce(rest.concurrent, self.limits.max_concurrent)
        )

    def idle_lease(
        self, wanted: Amounts, request: Amounts, leased_concurrent: int, replicas: int
    ) -> Amounts:
        """What of `wanted` a replica gets beyond what its requests need: a quarter of what is left
        over all replicas, or one `request` where all replicas could have one and twice as much is
        there; so that the next one need not ask."""
        part = LEASE_FRACTION / max(1, replicas)
        rest = self.rest(leased_concurrent)
        most = Amounts(
            math.floor(rest.requests * part),
            math.floor(rest.tokens * part),
            math.floor(rest.concurrent * part),
        )
        one = limited(request, self.limits)
        if rest.covers(one.times(REQUESTS_LEFT * max(1, replicas))):
            most = most.at_least(one)
        return limited(wanted, self.limits).at_most(most).at_least(NOTHING)

    def refusal(
        self, need: Amounts, missing: Amounts, leased_concurrent: int, now_s: float
    ) -> Refusal:
        """Of a request that needs what is not there: the limit that takes longest. `missing` is
        what its replica does not hold already."""
        refusals = list(self._refusals(need, missing, leased_concurrent, now_s))
        assert refusals, "only what does not fit is refused"
        return max(refusals, key=_wait_s)

    def balance(self, idle: Amounts, now_s: float) -> KeyBalance:
        """What is left over all replicas, idle leases among it."""
        requests, tokens = (
            _balance(self.requests, idle.requests),
            _balance(self.tokens, idle.tokens),
        )
        if self.limits.tokens_per_day is not None:
            day_left = max(0, self._day_rest() + idle.tokens)
            if tokens[0] is None or day_left < tokens[0]:
                tokens = day_left, seconds_to_midnight(now_s)
        return KeyBalance(requests[0], tokens[0], requests[1], tokens[1])

    def _day_rest(self) -> int:
        return _less(self.limits.tokens_per_day, self.day_tokens)

    def _refusals(
        self, need: Amounts, missing: Amounts, leased_concurrent: int, now_s: float
    ) -> Iterator[Refusal]:
        for name, bucket, needed, amount in (
            ("requests_per_minute", self.requests, need.requests, missing.requests),
            ("tokens_per_minute", self.tokens, need.tokens, missing.tokens),
        ):
            if bucket is not None and max(0, math.floor(bucket.level)) < amount:
                never = needed > bucket.limit
                yield Refusal(name, bucket.limit, None if never else bucket.wait_s(amount))
        day = self.limits.tokens_per_day
        if day is not None and max(0, self._day_rest()) < missing.tokens:
            never = need.tokens > day
            yield Refusal("tokens_per_day", day, None if never else seconds_to_midnight(now_s))
        most = self.limits.max_concurrent
        if most is not None and max(0, most - leased_concurrent) < missing.concurrent:
            never = need.concurrent > most
            yield Refusal("max_concurrent", most, None if never else CONCURRENCY_RETRY_S)


def new_quota(limits: KeyLimits, now_s: float) -> Quota:
    """Of a key that has used nothing."""
    return Quota(limits, None, None, utc_day(now_s)).with_limits(limits, now_s)


def seconds_to_midnight(now_s: float) -> float:
    """Until the UTC day ends."""
    return DAY_S - now_s % DAY_S


def _follows(day: str, known: str) -> bool:
    """A clock that is set back by moments does not return to the day before; one that was wrong by
    days does."""
    if day >= known:
        return True
    ahead = date.fromisoformat(known) - date.fromisoformat(day)
    return ahead.days > 1


def _resized(bucket: TokenBucket | None, limit: int | None, now_s: float) -> TokenBucket | None:
    if limit is None:
        return None
    if bucket is None:
        return full_bucket(limit, now_s)
    return bucket if bucket.limit == limit else bucket.resized(limit)


def _less(limit: int | None, taken: int) -> int:
    return UNLIMITED if limit is None else limit - taken


def _scarce(rest: int, limit: int | None) -> bool:
    return limit is not None and rest <= limit * SCARCE_FRACTION


def _wait_s(refusal: Refusal) -> float:
    return math.inf if refusal.retry_after_s is None else refusal.retry_after_s


def _balance(bucket: TokenBucket | None, idle: int) -> tuple[int | None, float]:
    """What is left, and the seconds until all of it is."""
    if bucket is None:
        return None, 0.0
    left = max(0.0, bucket.level + idle)
    return math.floor(left), max(0.0, (bucket.limit - left) / bucket.per_s)
