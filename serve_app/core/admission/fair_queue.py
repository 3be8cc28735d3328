"""A queue that is fair among flows by the work that is done for them, and in order inside each: of
arrival, but for requests with a deadline, which pass those that can start later.

Each flow has a virtual counter: the seconds of work done for it, divided by its weight. The flow
with the least counter is next. One that comes back after it had nothing waiting is lifted to the
least counter of the others, so that nobody saves up a claim (VTC: Sheng et al., "Fairness in
Serving Large Language Models", OSDI 2024). A request is charged with what it is expected to take
when it starts, which makes it start-time fair queueing (Goyal et al., SIGCOMM 1996) as long as
expectations hold, and its flow's counter is corrected by what it really took when it ends. So while
two flows have requests waiting, what they were charged differs, by weight, by at most the largest
charge of each; with one flow it is first in, first out.

Counters are whole nanoseconds: sums in another order give the same, and positions are exact.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Generic, Protocol, TypeVar

from serve_app.core.admission.fairness import Flow, Presence, Standing

# A request costs about this many decode steps beside its tokens: prefill and both ends.
FIXED_STEPS = 4
# Idle flows beyond so many are forgotten, those first that have claimed the least.
MOST_FLOWS = 1024
# About the last 30 starts say which part of them a flow has.
NEWEST_WEIGHT = 0.03
# About the last 30 requests of a flow say what they take against what was expected, which counts
# like so many before the first has ended.
PACE_KEPT, EXPECTED_COUNTS_AS = 0.97, 4.0
QUICKEST, SLOWEST = 0.05, 20.0
# No request is passed more often by others of its flow that have to start earlier.
MOST_PASSED = 8


def relative_work(max_new_tokens: int, expected_new_tokens: int) -> float:
    """How much of a typical request's work a request with this limit is, at most 1.

    The limit is all that is known of an answer's length beforehand. Times of past requests are
    kept for a whole one, so that a change from short to long requests is not learnt anew.
    """
    tokens = min(max_new_tokens, expected_new_tokens)
    return (FIXED_STEPS + tokens) / (FIXED_STEPS + expected_new_tokens)


class Queued(Protocol):
    """What waits: `work_s` is what it is expected to take of the GPU; `latest_start_s` is when it
    has to start at the latest. The others are kept by the queue: what it is charged, what was
    queued in its flow before it, ever, its place among those of its flow, and how often it was
    passed."""

    flow: Flow
    arrival: int
    sequences: int
    prompt_tokens: float
    work_s: float
    latest_start_s: float
    charge_ns: int
    mark_ns: int
    place: float
    passed: int


Q = TypeVar("Q", bound=Queued)


@dataclass(slots=True, eq=False)
class FlowQueue(Generic[Q]):
    """One flow: what waits in it, and what was done for it. `turn` orders flows whose counters are
    equal, by when they came back."""

    flow: Flow
    name: str = field(init=False)
    rank: float = field(init=False)
    counter_ns: int = 0
    turn: int = 0
    waiting: deque[Q] = field(default_factory=deque[Q])
    prompt_tokens: float = 0.0
    # Of what waits, and of what runs.
    queued_sequences: int = 0
    running_sequences: int = 0
    # Where the next request that is queued has its mark.
    end_ns: int = 0
    # What its requests took and were expected to take, in seconds, as sums that forget.
    took_s: float = 0.0
    expected_s: float = 0.0
    # Its part of the starts, as it was at start number `started`.
    part: float = 0.0
    started: int = 0

    def __post_init__(self) -> None:
        self.name, self.rank = self.flow.name, self.flow.rank

    @property
    def present(self) -> bool:
        return bool(self.waiting or self.running_sequences)

    def is_below(self, sequences: int, share_slots: float) -> bool:
        """Whether it has at most its share of the slots with so many sequences more, or one."""
        return self.running_sequences + sequences <= max(1.0, self.rank * share_slots)

    def charge_ns_of(self, work_s: float) -> int:
        """What its counter says of so much work."""
        return max(1, round(work_s * 1e9 / self.rank))

    def expected_charge_ns(self, work_s: float) -> int:
        """The same, with what is known of its requests."""
        if self.expected_s:
            work_s *= min(max(self.took_s / self.expected_s, QUICKEST), SLOWEST)
        return self.charge_ns_of(work_s)

    def learn(self, *, took_s: float, expected_s: float) -> None:
        """One of its requests has ended."""
        if not self.expected_s:
            self.took_s = self.expected_s = EXPECTED_COUNTS_AS * expected_s
        self.took_s = self.took_s * PACE_KEPT + took_s
        self.expected_s = self.expected_s * PACE_KEPT + expected_s

    def begins_ns(self, entry: Q) -> int:
        """Its counter when this one is next."""
        return self.counter_ns + entry.mark_ns - self.waiting[0].mark_ns

    def before(self, tag_ns: int, turn: int) -> int:
        """How many of those that wait here begin before one of another flow."""
        mark_ns = tag_ns - self.counter_ns + self.waiting[0].mark_ns
        bisect = bisect_right if self.turn < turn else bisect_left
        return bisect(self.waiting, mark_ns, key=lambda entry: entry.mark_ns)

    def position_of(self, latest_start_s: float) -> int:
        """Where one is queued that has to start by then: before the last ones that may start later
        and were not passed too often."""
        position = len(self.waiting)
        for entry in reversed(self.waiting):
            if entry.latest_start_s <= latest_start_s or entry.passed >= MOST_PASSED:
                break
            position -= 1
        return position

    def insert(self, entry: Q, position: int) -> None:
        """Before all from that position on, which it passes."""
        passed = list(islice(self.waiting, position, None))
        for other in passed:
            other.passed += 1
        if passed:
            before = self.waiting[position - 1].place if position else passed[0].place - 1
            entry.place = (before + passed[0].place) / 2
        self.waiting.insert(position, entry)

    def tokens_of(self, count: int) -> float:
        """Of the prompts of the first so many."""
        if count == len(self.waiting):
            return self.prompt_tokens
        return sum(entry.prompt_tokens for entry in islice(self.waiting, count))

    def part_at(self, started: int) -> float:
        return self.part * (1 - NEWEST_WEIGHT) ** (started - self.started)


@dataclass(slots=True)
class FairQueue(Generic[Q]):
    """Requests that wait (`push`), start and end; whose is next."""

    _flows: dict[str, FlowQueue[Q]] = field(default_factory=dict)
    # Those with something waiting.
    _active: dict[str, FlowQueue[Q]] = field(default_factory=dict)
    # Those with something waiting or running.
    _present: dict[str, FlowQueue[Q]] = field(default_factory=dict)
    _length: int = 0
    _prompt_tokens: float = 0.0
    # The flow that is next, once it was looked for.
    _next: FlowQueue[Q] | None = None
    # The counter at which the last one started.
    _level_ns: int = 0
    _turns: int = 0
    _started: int = 0
    _parts: float = 0.0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Q]:
        """All that wait, by flow."""
        return chain.from_iterable(own.waiting for own in self._active.values())

    @property
    def known_flows(self) -> int:
        return len(self._flows)

    @property
    def prompt_tokens(self) -> float:
        """Of all prompts that wait."""
        return self._prompt_tokens

    def presence(self, flow: Flow) -> Presence:
        """What of `standing` costs nothing to know."""
        own = self._flows.get(flow.name)
        if own is None:
            return Presence(0, 0, 1.0)
        ranks = self._ranks() + (0.0 if own.present else own.rank)
        sequences = own.queued_sequences + own.running_sequences
        return Presence(len(own.waiting), sequences, own.rank / ranks)

    def first(self) -> Q | None:
        """Who is next."""
        if not self._active:
            return None
        if self._next is None:
            flows = self._active.values()
            self._next = min(flows, key=_order) if len(flows) > 1 else next(iter(flows))
        return self._next.waiting[0]

    def first_below_share(self, slots: int, most_sequences: int) -> Q | None:
        """The next one of those whose flows have at most their share of the slots with it, where
        there are others."""
        if len(self._present) < 2:
            return None
        share_slots = slots / self._ranks()
        for own in sorted(self._active.values(), key=_order):
            entry = own.waiting[0]
            if entry.sequences <= most_sequences and own.is_below(entry.sequences, share_slots):
                return entry
        return None

    def is_below_share(self, flow: Flow, sequences: int, slots: int) -> bool:
        """Whether the flow's next request would be such a one, and nothing of it waits."""
        own = self._flows.get(flow.name)
        if own is None:
            own = FlowQueue[Q](flow)
        if own.waiting or len(self._present) <= own.present:
            return False
        ranks = self._ranks() + (0.0 if own.present else own.rank)
        return own.is_below(sequences, slots / ranks)

    def push(self, entry: Q, *, may_pass: bool = False) -> None:
        """It has come, as the last one of its flow; `may_pass`: but for those that may start later
        than it."""
        own = self._known(entry.flow)
        if not own.waiting:
            own.counter_ns = self._lifted_ns(own)
            self._turns += 1
            own.turn = self._turns
        entry.charge_ns = own.expected_charge_ns(entry.work_s)
        entry.place = float(entry.arrival)
        position = own.position_of(entry.latest_start_s) if may_pass else len(own.waiting)
        if position < len(own.waiting):
            own.insert(entry, position)
            _mark(own)
        else:
            entry.mark_ns = own.end_ns
            own.end_ns += entry.charge_ns
            own.waiting.append(entry)
        self._count(own, entry, 1)

    def start(self, entry: Q) -> None:
        """It begins to run, as the next one or before its turn."""
        own = self._flows[entry.flow.name]
        if own.waiting[0] is entry:
            self._level_ns = own.counter_ns
        self._take(own, entry)
        own.running_sequences += entry.sequences
        self._present[own.name] = own
        own.counter_ns += entry.charge_ns
        self._next = None
        self._started += 1
        own.part = own.part_at(self._started) + NEWEST_WEIGHT
        own.started = self._started
        self._parts = self._parts * (1 - NEWEST_WEIGHT) + NEWEST_WEIGHT

    def end(self, entry: Q, took_s: float) -> None:
        """It has ended, and has taken so much of the GPU."""
        own = self._flows[entry.flow.name]
        own.running_sequences -= entry.sequences
        own.counter_ns += own.charge_ns_of(took_s) - entry.charge_ns
        own.learn(took_s=took_s, expected_s=entry.work_s)
        self._next = None
        self._leave_if_idle(own)

    def remove(self, entry: Q) -> None:
        """It leaves without having run. Raises ValueError for one that does not wait."""
        own = self._flows[entry.flow.name]
        self._take(own, entry)
        self._leave_if_idle(own)

    def put_back(self, entry: Q) -> None:
        """One that was removed has its old position again."""
        own = self._known(entry.flow)
        if not own.waiting:
            self._turns += 1
            own.turn = self._turns
        insort(own.waiting, entry, key=lambda waiting: waiting.place)
        _mark(own)
        self._count(own, entry, 1)

    def ahead_of(self, entry: Q) -> int:
        """How many begin before it, as things stand. Raises ValueError for one that does not
        wait."""
        own = self._flows[entry.flow.name]
        position = own.waiting.index(entry)
        if len(self._active) > 1:
            tag_ns = own.begins_ns(entry)
            others = (other for other in self._active.values() if other is not own)
            position += sum(other.before(tag_ns, own.turn) for other in others)
        return position

    def passed_by(self, flow: Flow, latest_start_s: float) -> tuple[int, Sequence[Q]]:
        """The position in its flow of one that has to start by then and may pass others, and whom
        it would pass."""
        own = self._flows.get(flow.name)
        if own is None:
            return 0, ()
        position = own.position_of(latest_start_s)
        return position, list(islice(own.waiting, position, None))

    def standing(self, flow: Flow, position: int | None = None) -> Standing:
        """What the flow's next request would find; `position`: at that one of its flow, if not
        behind all that wait."""
        own = self._flows.get(flow.name)
        if own is None and not self._present:
            return Standing()
        queued = 0 if own is None else len(own.waiting)
        own_tokens = 0.0 if own is None else own.prompt_tokens
        if position is not None and own is not None and position < queued:
            queued, own_tokens = position, own.tokens_of(position)
        if own is not None and len(self._present) == own.present:
            return Standing(
                queued=queued,
                tokens_ahead=own_tokens,
                own_tokens=own_tokens,
                sequences=own.queued_sequences + own.running_sequences,
            )
        own = own or FlowQueue[Q](flow)
        tag_ns, turn = self._lifted_ns(own), self._turns + 1
        if own.waiting:
            behind = queued == len(own.waiting)
            end_ns = own.end_ns if behind else own.waiting[queued].mark_ns
            tag_ns = own.counter_ns + end_ns - own.waiting[0].mark_ns
            turn = own.turn
        ahead, tokens = 0, own_tokens
        for other in self._active.values():
            if other is not own:
                before = other.before(tag_ns, turn)
                ahead += before
                tokens += other.tokens_of(before)
        others = self._ranks() - (own.rank if own.present else 0.0)
        share = own.rank / (own.rank + others)
        others_part = self._parts - own.part_at(self._started)
        return Standing(
            queued=queued,
            others_queued=self._length - len(own.waiting),
            others_ahead=ahead,
            tokens_ahead=tokens,
            own_tokens=own_tokens,
            sequences=own.queued_sequences + own.running_sequences,
            share=share,
            drain_share=max(share, min(1.0, 1 - others_part)),
        )

    def _known(self, flow: Flow) -> FlowQueue[Q]:
        own = self._flows.get(flow.name)
        if own is None:
            if len(self._flows) >= MOST_FLOWS:
                self._forget()
            own = self._flows[flow.name] = FlowQueue[Q](flow)
        if own.flow is not flow:
            # Its weight may have changed.
            own.flow, own.rank = flow, flow.rank
        return own

    def _ranks(self) -> float:
        return sum(own.rank for own in self._present.values())

    def _lifted_ns(self, own: FlowQueue[Q]) -> int:
        """The counter of a flow without anything waiting once something does."""
        level_ns = self._level_ns
        if self._active:
            self.first()
            assert self._next is not None
            level_ns = min(level_ns, self._next.counter_ns)
        return max(own.counter_ns, level_ns)

    def _take(self, own: FlowQueue[Q], entry: Q) -> None:
        waiting = own.waiting
        if waiting and waiting[0] is entry:
            waiting.popleft()
        elif waiting and waiting[-1] is entry:
            waiting.pop()
            own.end_ns = entry.mark_ns
        else:
            waiting.remove(entry)
            _mark(own)
        self._count(own, entry, -1)

    def _count(self, own: FlowQueue[Q], entry: Q, sign: int) -> None:
        self._length += sign
        own.prompt_tokens += sign * entry.prompt_tokens
        self._prompt_tokens += sign * entry.prompt_tokens
        own.queued_sequences += sign * entry.sequences
        self._next = None
        if own.waiting:
            self._active[own.name] = self._present[own.name] = own
        else:
            self._active.pop(own.name, None)

    def _leave_if_idle(self, own: FlowQueue[Q]) -> None:
        if not own.present:
            self._present.pop(own.name, None)

    def _forget(self) -> None:
        idle = [own for own in self._flows.values() if not own.present]
        for own in sorted(idle, key=lambda own: own.counter_ns)[: max(1, len(idle) // 2)]:
            del self._flows[own.name]


def _order(own: FlowQueue[Q]) -> tuple[int, int]:
    return own.counter_ns, own.turn


def _mark(own: FlowQueue[Q]) -> None:
    """Anew, after one has left or come in the middle."""
    if own.waiting:
        mark_ns = own.waiting[0].mark_ns
        for entry in own.waiting:
            entry.mark_ns = mark_ns
            mark_ns += entry.charge_ns
        own.end_ns = mark_ns
