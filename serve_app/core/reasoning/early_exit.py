"""When reasoning is asked for a trial answer, and when those it has given end it."""

from collections.abc import Sequence

# So many trial answers in a row that say the same.
AGREEING = 2


def trial_is_due(tokens: int, *, asked_at: int, every_tokens: int) -> bool:
    """Whether a sequence of so many tokens is asked, where the last trial began at `asked_at`."""
    return tokens - asked_at >= every_tokens


def is_stable(values: Sequence[str | None]) -> bool:
    """Whether the last trial answers agree. None, one that says nothing, agrees with nothing."""
    last = values[-AGREEING:]
    return len(last) == AGREEING and last[0] is not None and len(set(last)) == 1
