"""Where a request runs: at the replica with its prefix, and never where that is later or unfair."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.prefix.cached_chunks import CachedChunks
from serve_app.core.prefix.live_conversations import LiveConversations
from serve_app.core.prefix.prompt_chunks import CHUNK_BYTES, prompt_chunks
from serve_app.core.prefix.replica_choice import (
    NO_LOAD_SEQUENCES,
    STALE_S,
    Candidate,
    Choice,
    ChoiceReason,
    ReplicaState,
    choose_replica,
)

LEAST_SAVED_S, MOST_LOAD_RATIO, PROMPT_TOKENS = 0.02, 1.2, 1500.0


def a_state(name: str = "there", **given: Any) -> ReplicaState:
    """Idle, and a token of a prompt takes 0.2 ms, as on a T4."""
    idle = ReplicaState(name, 0.0, 8, 0.0, 0.0002)
    return replace(idle, **given)


def a_candidate(name: str = "there", cached: float = 0.0, **given: Any) -> Candidate:
    return Candidate(a_state(name, **given), cached)


def choose(here: Candidate, *peers: Candidate, prompt_tokens: float = PROMPT_TOKENS) -> Choice:
    return choose_replica(
        here,
        peers,
        prompt_tokens=prompt_tokens,
        least_saved_s=LEAST_SAVED_S,
        most_load_ratio=MOST_LOAD_RATIO,
    )


def test_the_replica_that_has_the_prefix_runs_it() -> None:
    choice = choose(a_candidate("here"), a_candidate("b", 512), a_candidate("c", 1400))
    assert (choice.reason, choice.target) == (ChoiceReason.FOUND, "c")
    assert choice.saved_tokens == 1400
    assert choice.saved_s == pytest.approx(1400 * 0.0002)


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        ({"age_s": STALE_S + 0.1}, ChoiceReason.ALONE),
        ({"draining": True}, ChoiceReason.ALONE),
        ({"has_room": False}, ChoiceReason.FULL),
        ({"wait_s": 0.3}, ChoiceReason.WAITS),
        ({"sequences": 8.0}, ChoiceReason.OVERLOADED),
        ({"prompt_token_s": 0.004}, ChoiceReason.HERE),
    ],
)
def test_it_stays_where_the_other_one_is_no_good(
    there: dict[str, Any], reason: ChoiceReason
) -> None:
    choice = choose(a_candidate("here"), a_candidate("b", 1400, **there))
    assert (choice.reason, choice.target) == (reason, None)


def test_a_short_conversation_is_nobodys_business() -> None:
    choice = choose(a_candidate("here"), a_candidate("b", 90), prompt_tokens=90)
    assert choice.reason is ChoiceReason.SHORT


def test_what_is_here_stays_here() -> None:
    busy = {"sequences": 8.0, "conversations": 9}
    choice = choose(a_candidate("here", 1300, **busy), a_candidate("b", 1300), a_candidate("c"))
    # The other one has as much of it and less to do.
    assert (choice.reason, choice.target) == (ChoiceReason.PLACED, "b")
    assert choose(a_candidate("here", 1300), a_candidate("b", 1300)).target is None
    assert choose(a_candidate("here", 1300, **busy), a_candidate("c")).target is None


def test_a_new_conversation_begins_where_the_fewest_are_for_their_slots() -> None:
    here = a_candidate("here", sequences=6.0, conversations=9)
    peers = [a_candidate("b", conversations=8), a_candidate("c", conversations=7)]
    choice = choose(here, *peers)
    assert (choice.reason, choice.target) == (ChoiceReason.PLACED, "c")
    assert choose(replace(here, state=replace(here.state, conversations=7)), *peers).target is None
    faster = a_candidate("d", conversations=15, slots=32)
    assert choose(here, *peers, faster).target == "d"


states = st.builds(
    ReplicaState,
    name=st.just("x"),
    sequences=st.floats(0, 40),
    slots=st.integers(1, 64),
    wait_s=st.floats(0, 3),
    prompt_token_s=st.floats(1e-6, 0.01),
    conversations=st.integers(0, 20),
    up_s=st.sampled_from([0.0, math.inf]),
    has_room=st.booleans(),
    draining=st.booleans(),
    age_s=st.floats(0, 10),
)
candidates = st.builds(Candidate, states, st.floats(0, 4000))


@given(
    here=candidates,
    peers=st.lists(candidates, max_size=5),
    prompt_tokens=st.floats(1, 8000),
)
def test_no_request_is_forwarded_where_it_is_worse_off(
    here: Candidate, peers: Sequence[Candidate], prompt_tokens: float
) -> None:
    named = [
        replace(peer, state=replace(peer.state, name=str(at))) for at, peer in enumerate(peers)
    ]
    choice = choose(here, *named, prompt_tokens=prompt_tokens)
    assert (choice.target is not None) == (
        choice.reason in (ChoiceReason.FOUND, ChoiceReason.PLACED)
    )
    if choice.target is None:
        return
    target = named[int(choice.target)]
    assert target.state.takes_part
    assert target.state.has_room
    # It does not wait there for longer than what is saved.
    slower_s = target.state.wait_s - here.state.wait_s
    saved_s = here.read_s(prompt_tokens) - target.read_s(prompt_tokens)
    assert slower_s <= saved_s + 1e-9
    assert choice.most_wait_s >= target.state.wait_s - 1e-9
    if choice.reason is ChoiceReason.FOUND:
        assert saved_s - slower_s >= LEAST_SAVED_S - 1e-9
        assert choice.most_wait_s - here.state.wait_s <= saved_s - LEAST_SAVED_S + 1e-9
        present = [here.state, *(peer.state for peer in named if peer.state.takes_part)]
        settled = [state.load for state in present if state.up_s]
        own = target.state
        if settled and own.sequences > NO_LOAD_SEQUENCES:
            assert own.load <= MOST_LOAD_RATIO * sum(settled) / len(settled) + 1e-9


class Tier:
    """Replicas behind a balancer that knows nothing of prefixes; requests take no time, and loads
    are what each was given lately."""

    def __init__(self, names: Sequence[str], seed: int) -> None:
        self.cached = {name: CachedChunks() for name in names}
        self.live = defaultdict[str, LiveConversations](LiveConversations)
        self.up_s: dict[str, float] = {}
        self.given: Counter[str] = Counter()
        self.lately: dict[str, float] = {}
        self.rng = random.Random(seed)

    def serve(self, conversation: int, turn: int) -> tuple[str, float]:
        """Which replica runs it, and which fraction of its prompt it has."""
        text = random.Random(conversation).randbytes(CHUNK_BYTES * (10 + turn))
        chunks = prompt_chunks(b"k", b"", text)
        here, *peers = self.rng.sample(sorted(self.cached), len(self.cached))
        choice = choose(
            self._candidate(here, chunks), *(self._candidate(peer, chunks) for peer in peers)
        )
        runs = choice.target or here
        found = self.cached[runs].found(chunks) / len(chunks)
        self.cached[runs].use(chunks)
        self.live[runs].turn(chunks, 0.0)
        self.given[runs] += 1
        self.lately = {name: load * 0.99 for name, load in self.lately.items()}
        self.lately[runs] = self.lately.get(runs, 0.0) + 1
        return runs, found

    def _candidate(self, name: str, chunks: Sequence[bytes]) -> Candidate:
        load = self.lately.get(name, 0.0)
        cached = self.cached[name].found(chunks) / len(chunks) * PROMPT_TOKENS
        return a_candidate(
            name,
            cached,
            sequences=load,
            conversations=self.live[name].count(0.0),
            up_s=self.up_s.get(name, math.inf),
        )

    @property
    def balance(self) -> float:
        return max(self.given.values()) * len(self.cached) / self.given.total()


def play(tier: Tier, *, rounds: int, users: int = 24) -> tuple[float, dict[int, list[str]]]:
    """Users with a conversation of six turns each, again and again: which fraction of the prompts
    was found, and where each conversation ran."""
    found: list[float] = []
    where: dict[int, list[str]] = {}
    turns = {user: (user, tier.rng.randrange(6)) for user in range(users)}
    for step in range(rounds * users):
        user = tier.rng.randrange(users)
        conversation, turn = turns[user]
        runs, fraction = tier.serve(conversation, turn)
        found.append(fraction)
        where.setdefault(conversation, []).append(runs)
        turns[user] = (conversation, turn + 1) if turn < 5 else (users + step, 0)
    return sum(found) / len(found), where


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_conversations_find_their_prefixes_again_and_the_load_stays_even(
    replicas: int, seed: int
) -> None:
    alone, _ = play(Tier(["a"], seed), rounds=40)
    tier = Tier([f"replica {number}" for number in range(replicas)], seed)
    found, _ = play(tier, rounds=40)
    assert found >= 0.9 * alone
    assert tier.balance <= 1.2


def test_a_replica_more_moves_few_conversations_and_one_less_only_its_own() -> None:
    tier = Tier(["a", "b", "c"], seed=1)
    began = {conversation: tier.serve(conversation, 0)[0] for conversation in range(60)}
    tier.cached["d"], tier.up_s["d"] = CachedChunks(), 0.0
    moved = sum(tier.serve(conversation, 1)[0] != runs for conversation, runs in began.items())
    assert moved <= 60 * 0.1
    new = Counter(tier.serve(100 + number, 0)[0] for number in range(12))
    assert new["d"] == 12
    tier = Tier(["a", "b", "c"], seed=1)
    began = {conversation: tier.serve(conversation, 0)[0] for conversation in range(60)}
    del tier.cached["c"]
    tier.lately.pop("c")
    moved = sum(
        tier.serve(conversation, 1)[0] != runs
        for conversation, runs in began.items()
        if runs != "c"
    )
    assert moved <= 60 * 0.1
