"""Ledger and replicas against each other: hypothesis loses, repeats and reorders what they say,
kills any of them, and lets the clock run; nothing is ever overspent, and nothing is lost."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.core.access.ledger_world import World

INDEX = st.integers(0, 7)
TOKENS = st.sampled_from((1, 5, 20, 60, 150, 400, 1000))


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def _name(self, index: int) -> str:
        names = list(self.world.replicas)
        return names[index % len(names)]

    @rule(index=INDEX, tokens=TOKENS, count=st.integers(1, 8), is_heard=st.booleans())
    def reserve(self, index: int, tokens: int, count: int, is_heard: bool) -> None:
        name = self._name(index)
        for _ in range(count):
            self.world.reserve(name, tokens)
        if is_heard:
            self.world.exchange(name)
            self.world.exchange(name)

    @rule(index=INDEX, tokens=st.sampled_from((1, 10, 30)), reserves_first=st.booleans())
    def fall_silent(self, index: int, tokens: int, reserves_first: bool) -> None:
        self.world.fall_silent(self._name(index), tokens, reserves_first=reserves_first)

    @rule(
        index=INDEX,
        tokens=st.sampled_from((5, 20, 60)),
        count=st.integers(1, 8),
        then=st.sampled_from(("", "send", "lose", "lose", "die", "die unnoticed", "fall silent")),
    )
    def begin_without_the_ledger(self, index: int, tokens: int, count: int, then: str) -> None:
        name = self._name(index)
        self.world.begin_without_the_ledger(name, tokens, count)
        if then == "send":
            self.world.send(name)
        elif then == "lose":
            for _ in range(count):
                self.world.lose(name)
                self.world.begin(name, tokens)
        elif then == "fall silent":
            self.world.fall_silent(name, tokens, reserves_first=True)
        elif then and len(self.world.replicas) > 1:
            self.world.kill_replica(name, is_noticed=then == "die")
            self.world.use_up(*self.world.replicas)

    @rule(index=INDEX)
    def end_all(self, index: int) -> None:
        self.world.end_all(self._name(index))

    @rule(index=INDEX, which=INDEX, fraction=st.sampled_from((0.0, 0.3, 1.0)))
    def end(self, index: int, which: int, fraction: float) -> None:
        self.world.end(self._name(index), which, fraction)

    @rule(index=INDEX)
    def exchange(self, index: int) -> None:
        self.world.exchange(self._name(index))

    @rule()
    def exchange_all(self) -> None:
        for name in self.world.replicas:
            self.world.exchange(name)

    @rule(index=INDEX)
    def send(self, index: int) -> None:
        self.world.send(self._name(index))

    @rule(index=INDEX, keeps_copy=st.booleans(), dies=st.sampled_from(("", "", "before", "after")))
    def receive(self, index: int, keeps_copy: bool, dies: str) -> None:
        self.world.receive(index, keeps_copy=keeps_copy, dies=dies)

    @rule(index=INDEX, keeps_copy=st.booleans())
    def deliver(self, index: int, keeps_copy: bool) -> None:
        self.world.deliver(index, keeps_copy=keeps_copy)

    @rule(seconds=st.sampled_from((0.1, 0.5, 3.0, 4.5, 11.0, 70.0)))
    def tick(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule(index=INDEX)
    def only_one_is_heard_until_the_others_count_as_dead(self, index: int) -> None:
        for _ in range(4):
            self.world.tick(4.0)
            self.world.exchange(self._name(index))

    @rule()
    def midnight_comes_near(self) -> None:
        left_s = 86_400.0 - self.world.now_s % 86_400.0
        if left_s > 1.0:
            self.world.tick(left_s - 0.3)

    @rule(index=INDEX)
    def give_up(self, index: int) -> None:
        self.world.give_up(self._name(index))

    @rule()
    def restart_ledger(self) -> None:
        self.world.restart_ledger()

    @precondition(lambda self: len(self.world.replicas) > 1)
    @rule(index=INDEX, is_noticed=st.booleans())
    def kill_replica(self, index: int, is_noticed: bool) -> None:
        self.world.kill_replica(self._name(index), is_noticed=is_noticed)

    @precondition(lambda self: len(self.world.replicas) < 4)
    @rule()
    def start_replica(self) -> None:
        self.world.start_replica()

    @invariant()
    def nothing_is_overspent(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.check_nothing_is_lost()


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=250, stateful_step_count=50)
