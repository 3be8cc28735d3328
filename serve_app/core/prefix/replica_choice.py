"""Run a request where it came in, or at the replica that has the begin of its prompt."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

# A report that is older says nothing any more: three of them are missing then.
STALE_S = 3.0
# A mean of fewer busy sequences is no load that could be out of balance.
NO_LOAD_SEQUENCES = 0.5
# A replica's mean load says little before. One that has just started would lower the mean so far
# that all others were above their bound, and their conversations were scattered; meanwhile it gets
# the new ones.
SETTLED_S = 60.0
# With fewer here it makes no difference where a conversation begins.
PLACED_SEQUENCES = 0.3


class ChoiceReason(StrEnum):
    """The first two forward it."""

    FOUND = "found"
    PLACED = "placed"
    # Reading the prompt takes no longer than a hop is worth.
    SHORT = "short"
    # No other replica has reported lately.
    ALONE = "alone"
    # No other one has more of the prompt, or so little more that it saves nothing.
    HERE = "here"
    # One has, but ...
    FULL = "full"
    OVERLOADED = "overloaded"
    WAITS = "waits"


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One replica as it last reported. `sequences` is how many of its `slots` were busy or asked
    for, as a mean of the last half minute; `wait_s` how long its engine still reads the prompts
    that it has; `prompt_token_s` how long it takes for one token more, as measured;
    `conversations` how many had a turn there lately; `up_s` since when it serves."""

    name: str
    sequences: float
    slots: int
    wait_s: float
    prompt_token_s: float
    conversations: int = 0
    up_s: float = math.inf
    has_room: bool = True
    draining: bool = False
    age_s: float = 0.0

    @property
    def load(self) -> float:
        """Over replicas of different GPUs."""
        return self.sequences / max(1, self.slots)

    @property
    def next_conversation(self) -> float:
        """What it would have with another one, for each of its slots."""
        return (self.conversations + 1) / max(1, self.slots)

    @property
    def takes_part(self) -> bool:
        """Whether anything may be said of it, and it stays."""
        return self.age_s <= STALE_S and not self.draining


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica, and how many tokens of this prompt its prefix cache has."""

    state: ReplicaState
    cached_tokens: float

    def read_s(self, prompt_tokens: float) -> float:
        """How long it reads what it does not have."""
        return max(0.0, prompt_tokens - self.cached_tokens) * self.state.prompt_token_s

    def first_token_s(self, prompt_tokens: float) -> float:
        """Until the prompt is read, behind all that its engine has to read."""
        return self.state.wait_s + self.read_s(prompt_tokens)


@dataclass(frozen=True, slots=True)
class Choice:
    """`target` is the replica that is to run it, None for this one. There its engine may have at
    most `most_wait_s` of other prompts to read, or the request is better off here. `saved_s` is by
    how much earlier its prompt will have been read, `saved_tokens` what need not be read."""

    reason: ChoiceReason
    target: str | None = None
    most_wait_s: float = 0.0
    saved_s: float = 0.0
    saved_tokens: float = 0.0


def choose_replica(
    here: Candidate,
    peers: Sequence[Candidate],
    *,
    prompt_tokens: float,
    least_saved_s: float,
    most_load_ratio: float,
) -> Choice:
    """Decide on one request before it enters this replica's gate, where nothing waits.

    It goes to the replica where its prompt is read first, if that one has more of it, and it saves
    `least_saved_s` at least: what a hop is worth. So it never waits there for longer than reading
    the same tokens again would take. Never to one that is stale, drains or has no room, nor to one
    whose load is above `most_load_ratio` times the mean (bounded loads, as in Mirrokni, Thorup and
    Zadimoghaddam 2018, with the replica that has the prefix in place of the hash's).

    One that has no such replica is a new conversation, which will stay where it begins: it does
    where the fewest are, for their slots, if its prompt is read there as soon.
    """
    if here.read_s(prompt_tokens) < least_saved_s:
        return Choice(ChoiceReason.SHORT)
    present = [peer for peer in peers if peer.state.takes_part]
    if not present:
        return Choice(ChoiceReason.ALONE)
    most_load = most_load_ratio * _mean_load([here, *present])
    reason, best, best_s = ChoiceReason.HERE, None, 0.0
    for peer in present:
        saved_s = here.first_token_s(prompt_tokens) - peer.first_token_s(prompt_tokens)
        worth_s = here.read_s(prompt_tokens) - peer.read_s(prompt_tokens)
        if peer.cached_tokens <= here.cached_tokens or worth_s < least_saved_s:
            continue
        if not peer.state.has_room:
            reason = ChoiceReason.FULL
        elif _is_overloaded(peer.state, most_load):
            reason = ChoiceReason.OVERLOADED
        elif saved_s < least_saved_s:
            reason = ChoiceReason.WAITS
        elif best is None or saved_s > best_s:
            best, best_s = peer, saved_s
    if best is not None:
        return Choice(
            ChoiceReason.FOUND,
            best.state.name,
            best.state.wait_s + best_s - least_saved_s,
            best_s,
            best.cached_tokens - here.cached_tokens,
        )
    if reason is ChoiceReason.HERE:
        return _placed(here, present, prompt_tokens)
    return Choice(reason)


def _placed(here: Candidate, present: Sequence[Candidate], prompt_tokens: float) -> Choice:
    stays, own = Choice(ChoiceReason.HERE), here.state
    if own.sequences <= PLACED_SEQUENCES:
        return stays
    as_soon = [
        peer.state
        for peer in present
        if peer.state.has_room
        and peer.first_token_s(prompt_tokens) <= here.first_token_s(prompt_tokens)
        and peer.state.next_conversation < own.next_conversation
    ]
    if not as_soon:
        return stays
    fewest = min(as_soon, key=lambda state: (state.next_conversation, state.load))
    return Choice(ChoiceReason.PLACED, fewest.name, max(own.wait_s, fewest.wait_s))


def _mean_load(candidates: Sequence[Candidate]) -> float:
    """Of those that have settled; where none has, nothing bounds."""
    loads = [each.state.load for each in candidates if each.state.up_s >= SETTLED_S]
    return sum(loads) / len(loads) if loads else math.inf


def _is_overloaded(state: ReplicaState, most_load: float) -> bool:
    return state.sequences > NO_LOAD_SEQUENCES and state.load > most_load
