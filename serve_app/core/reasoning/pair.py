"""When a direct answer is confirmed by the reasoning that runs beside it."""

from collections.abc import Sequence

# The direct answer, and the one that is reasoned for.
SIDES = 2


def is_confirmed(direct: str | None, trials: Sequence[str | None]) -> bool:
    """Whether the last trial answer of the reasoning says what the direct answer says. One of them
    is enough, for the two were found apart; None, which says nothing, confirms nothing."""
    return direct is not None and bool(trials) and trials[-1] == direct
