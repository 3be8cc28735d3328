"""Which of several samples is the answer, as soon as no sample to come can change it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# So many whole samples without a final answer, and none with one: there is nothing to vote on.
ABSTENTIONS = 2


@dataclass(frozen=True, slots=True)
class Ballot:
    """What a finished sample says; None: it has no final answer, and does not vote. `whole`: it
    came to its own end, neither cut nor in circles nor inside its reasoning."""

    sample: int
    value: str | None
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """The sample that is the answer, so many of `samples` finished ones that say the same."""

    sample: int
    agreeing: int
    samples: int


def verdict(
    ballots: Sequence[Ballot], samples: int, *, abstentions: int | None = ABSTENTIONS
) -> Verdict | None:
    """None while a sample that has not finished could change it. `ballots` are in the order in
    which the samples have finished, the first of which stands for all that say the same; of values
    with as many votes, the one that was said first wins.

    Where nothing has a value it is the first whole one, once there are so many `abstentions` or all
    have finished; None: only then."""
    votes = Counter(ballot.value for ballot in ballots if ballot.value is not None)
    left = samples - len(ballots)
    if not votes:
        whole = [ballot for ballot in ballots if ballot.whole]
        enough = abstentions is not None and len(whole) >= abstentions
        if ballots and (left == 0 or enough):
            return Verdict((whole or ballots)[0].sample, 0, len(ballots))
        return None
    # The first of those with most, for a Counter keeps the order in which they came.
    value, most = votes.most_common(1)[0]
    if left and any(_could_win(each, value, votes, left) for each in (*votes, None)):
        return None
    first = next(ballot.sample for ballot in ballots if ballot.value == value)
    return Verdict(first, most, len(ballots))


def _could_win(value: str | None, leader: str, votes: Counter[str], left: int) -> bool:
    """Whether a value would be ahead of the leader with all that is left; None: one that nobody has
    said yet."""
    if value == leader:
        return False
    order = list(votes)
    is_earlier = value is not None and order.index(value) < order.index(leader)
    most = (0 if value is None else votes[value]) + left
    return most > votes[leader] or (is_earlier and most == votes[leader])
