"""The simulated cluster: cards of several kinds, the tiers' replicas on them, lines, lending."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from loadtest.simulation.replica import Replica
from loadtest.simulation.trace import Request
from serve_app.core.step_time import StepModel
from serve_app.core.tiers import Tier
from serve_app.core.work import LearntLengths


@dataclass(frozen=True, slots=True)
class CardSpeed:
    """What a tier's replica is on this card."""

    model: StepModel
    slots: int


@dataclass(frozen=True, slots=True)
class TierPlan:
    """How a tier runs: cards in order of preference, its longest wait, its speed on each card."""

    preference: Sequence[str]
    max_wait_s: float
    cards: Mapping[str, CardSpeed]
    lengths: LearntLengths


@dataclass(slots=True)
class TierState:
    plan: TierPlan
    target: int = 0
    replicas: list[Replica] = field(default_factory=list)
    line: deque[Request] = field(default_factory=deque)
    refused: int = 0
    lent_out: int = 0

    def serving(self, now_s: float) -> list[Replica]:
        return [r for r in self.replicas if r.ready_s <= now_s and r.stopping_s is None]

    @property
    def wanted(self) -> list[Replica]:
        """Those that start or serve."""
        return [replica for replica in self.replicas if replica.stopping_s is None]


@dataclass(slots=True)
class Fleet:
    """Events in order of time; `advance` runs the engines up to a moment."""

    tiers: Mapping[Tier, TierState]
    free_cards: Counter[str]
    cold_start_s: float
    min_drain_s: float
    lend_share: float
    held_s: float = 0.0
    _events: list[tuple[float, int, Replica]] = field(default_factory=list)
    _order: int = 0
    _home: dict[Replica, Tier] = field(default_factory=dict)
    _borrowing: dict[Request, Replica] = field(default_factory=dict)

    def arrive(self, request: Request, now_s: float) -> None:
        state = self.tiers[request.tier]
        serving = state.serving(now_s)
        if serving:
            least_busy = min(serving, key=lambda replica: replica.running)
            least_busy.count_arrival(request, now_s)
        state.line.append(request)
        self.dispatch(request.tier, now_s)

    def dispatch(self, tier: Tier, now_s: float) -> None:
        """Start what waits, in order, wherever a slot is free; refuse what waited too long."""
        state = self.tiers[tier]
        while state.line:
            request = state.line[0]
            if now_s - request.arrival_s > state.plan.max_wait_s:
                state.line.popleft()
                state.refused += 1
                continue
            room = [r for r in state.serving(now_s) if r.running < r.slots]
            if room:
                chosen = min(room, key=lambda replica: replica.running)
            else:
                lender = self._lender(tier, now_s)
                if lender is None:
                    return
                chosen = lender
                chosen.borrowed += 1
                self._borrowing[request] = chosen
                state.lent_out += 1
            state.line.popleft()
            chosen.take(request, now_s)
            self._schedule(chosen)

    def advance(self, until_s: float) -> None:
        """Run all engines up to `until_s`."""
        while self._events and self._events[0][0] <= until_s:
            now_s, _, replica = heappop(self._events)
            if replica.stride_end_s != now_s:
                continue
            for request in replica.end_stride(now_s):
                lender = self._borrowing.pop(request, None)
                if lender is not None:
                    lender.borrowed -= 1
            self._schedule(replica)
            home = self._home[replica]
            self.dispatch(home, now_s)
            if self.lend_share:
                for tier in self.tiers:
                    self.dispatch(tier, now_s)

    def reconcile(self, tier: Tier, now_s: float, *, cold_start_s: float | None = None) -> None:
        """Start or stop replicas towards the target, as Serve does; free cards that are drained."""
        state = self.tiers[tier]
        for replica in [r for r in state.replicas if r.stopping_s is not None]:
            drained = not replica.running and now_s >= (replica.stopping_s or 0) + self.min_drain_s
            if drained or replica.ready_s > now_s:
                state.replicas.remove(replica)
                self.free_cards[replica.card] += 1
        for _ in range(len(state.wanted) - state.target):
            self._choose_to_stop(state, now_s).stopping_s = now_s
        for _ in range(state.target - len(state.wanted)):
            card = next((card for card in state.plan.preference if self.free_cards[card]), None)
            if card is None:
                return
            self.free_cards[card] -= 1
            speed = state.plan.cards[card]
            start_s = self.cold_start_s if cold_start_s is None else cold_start_s
            replica = Replica(
                card, speed.model, speed.slots, state.plan.lengths, ready_s=now_s + start_s
            )
            self._home[replica] = tier
            state.replicas.append(replica)

    def hold(self, seconds: float) -> None:
        """Count the cards that are held for this time."""
        self.held_s += seconds * sum(len(state.replicas) for state in self.tiers.values())

    def _lender(self, tier: Tier, now_s: float) -> Replica | None:
        lenders = [
            replica
            for other, state in self.tiers.items()
            if other is not tier and not state.line
            for replica in state.serving(now_s)
            if replica.running < replica.slots
            and replica.borrowed + 1 <= self.lend_share * replica.slots
        ]
        return min(lenders, key=lambda replica: replica.running, default=None)

    def _choose_to_stop(self, state: TierState, now_s: float) -> Replica:
        """Like Serve: one that has not started, then the less preferred card, then the idlest."""
        return max(
            state.wanted,
            key=lambda r: (r.ready_s > now_s, state.plan.preference.index(r.card), -r.running),
        )

    def _schedule(self, replica: Replica) -> None:
        if replica.stride_end_s is not None:
            self._order += 1
            heappush(self._events, (replica.stride_end_s, self._order, replica))
