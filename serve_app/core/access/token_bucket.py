"""A limit per minute: full at first, refilled continuously, as OpenAI's rate limits are.

In any span of t seconds no more is drawn, less what was put back, than `limit * (1 + t / 60)`.
"""

from dataclasses import dataclass

MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """`level` may be drawn at Unix time `at_s`. It is negative where more was used than was there,
    as after a limit was lowered; refilling makes up for that first."""

    limit: int
    level: float
    at_s: float

    @property
    def per_s(self) -> float:
        return self.limit / MINUTE_S

    def refilled(self, now_s: float, idle: int = 0) -> "TokenBucket":
        """At `now_s`. `idle` was drawn and is not reserved by any request yet: bucket and idle
        leases together never exceed the limit. A clock that steps back refills nothing."""
        elapsed_s = max(0.0, now_s - self.at_s)
        level = self.level + elapsed_s * self.per_s
        return TokenBucket(self.limit, min(level, float(self.limit - idle)), now_s)

    def drawn(self, amount: int) -> "TokenBucket":
        """With `amount` less; a negative one puts back."""
        return TokenBucket(self.limit, self.level - amount, self.at_s)

    def emptied_by(self, amount: int) -> "TokenBucket":
        """With `amount` less, and no less than nothing: of what was used in minutes that are over
        and whose refill was never given."""
        return TokenBucket(self.limit, min(self.level, max(0.0, self.level - amount)), self.at_s)

    def resized(self, limit: int) -> "TokenBucket":
        """With another limit: what was drawn lately stays drawn."""
        return TokenBucket(limit, self.level + limit - self.limit, self.at_s)

    def wait_s(self, amount: float) -> float | None:
        """Until `amount` can be drawn; None where nothing is ever added."""
        if amount <= self.level:
            return 0.0
        return (amount - self.level) / self.per_s if self.limit > 0 else None


def full_bucket(limit: int, now_s: float) -> TokenBucket:
    return TokenBucket(limit, float(limit), now_s)
