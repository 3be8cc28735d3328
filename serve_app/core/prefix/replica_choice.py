"""Run a request where it came in, or at the replica that has the begin of its prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

# A report that is older says nothing any more: three of them are missing then.
STALE_S = 3.0
# A mean of fewer busy sequences is no load that could be out of balance.
NO_LOAD_SEQUENCES = 1.0
# A prompt that is nowhere, or as much of it here as there, begins where the load is lower by so
# much of the mean.
PLACED_LOAD_GAP = 0.2


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
    """One replica as it last reported. `load` is the mean fraction of its slots that was busy or
    asked for in the last half minute, `sequences` the same in sequences; `wait_s` how long its
    engine still reads the prompts that it has; `prompt_token_s` how long it takes for one token
    more, as measured."""

    name: str
    load: float
    sequences: float
    wait_s: float
    prompt_token_s: float
    has_room: bool = True
    draining: bool = False
    age_s: float = 0.0

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

    Where the load is above the mean here, and a replica with less of it would read the prompt as
    soon, it begins there: a new conversation, which will stay.
    """
    if here.read_s(prompt_tokens) < least_saved_s:
        return Choice(ChoiceReason.SHORT)
    present = [peer for peer in peers if peer.state.takes_part]
    if not present:
        return Choice(ChoiceReason.ALONE)
    loads = [here.state.load, *(peer.state.load for peer in present)]
    mean_load = sum(loads) / len(loads)
    reason, best, best_s = ChoiceReason.HERE, None, 0.0
    for peer in present:
        saved_s = here.first_token_s(prompt_tokens) - peer.first_token_s(prompt_tokens)
        worth_s = here.read_s(prompt_tokens) - peer.read_s(prompt_tokens)
        if peer.cached_tokens <= here.cached_tokens or worth_s < least_saved_s:
            continue
        if not peer.state.has_room:
            reason = ChoiceReason.FULL
        elif _is_overloaded(peer.state, mean_load * most_load_ratio):
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
        return _placed(here, present, mean_load, prompt_tokens)
    return Choice(reason)


def _placed(
    here: Candidate, present: Sequence[Candidate], mean_load: float, prompt_tokens: float
) -> Choice:
    stays, own = Choice(ChoiceReason.HERE), here.state
    if own.sequences <= NO_LOAD_SEQUENCES or own.load <= mean_load:
        return stays
    as_soon = [
        peer.state
        for peer in present
        if peer.state.has_room
        and peer.first_token_s(prompt_tokens) <= here.first_token_s(prompt_tokens)
        and own.load - peer.state.load > PLACED_LOAD_GAP * mean_load
    ]
    if not as_soon:
        return stays
    least = min(as_soon, key=lambda state: state.load)
    return Choice(ChoiceReason.PLACED, least.name, max(own.wait_s, least.wait_s))


def _is_overloaded(state: ReplicaState, most_load: float) -> bool:
    return state.sequences > NO_LOAD_SEQUENCES and state.load > most_load
