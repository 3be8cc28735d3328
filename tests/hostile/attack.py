"""One attack, and the site that has to bear it."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx

from serve_app.core.tiers import Tier
from tests.e2e.machine_clock import clock_s
from tests.e2e.site import Site, wait_for
from tests.hostile.probe import Asked, Probe
from tests.hostile.verdict import DETAIL, faults_of
from tests.hostile.watch import Watch
from tests.hostile.wire import JSON, Address, Answer, Headers, as_json, post, round_trip

CHAT, REASONING = Tier.CHAT.route_prefix, Tier.REASONING.route_prefix
USER = [{"role": "user", "content": "hi"}]
# The longest that anybody else may wait for a tiny answer, whatever strangers send.
LONGEST_WAIT_S = 2.0
# Between an attack's name and what is not as promised.
ARROW = " => "
LONGEST_LINE = 420
RECOVERY_LIMIT_S = 240.0


@dataclass(frozen=True, slots=True)
class Attack:
    """`body` is made just before it is sent, since some are large. `wanted`: these statuses only.
    `raw` is a whole request, for those that are no HTTP."""

    name: str
    path: str
    body: Callable[[], bytes] = lambda: b""
    method: str = "POST"
    headers: Headers = (JSON,)
    limit_s: float = 10.0
    wanted: Sequence[int] = ()
    raw: Callable[[], bytes | Iterable[bytes]] | None = None
    outside_http: bool = False
    bodiless: bool = False

    @property
    def anthropic(self) -> bool:
        return "/v1/messages" in self.path

    def send(self, address: Address) -> Answer:
        if self.raw is not None:
            request: bytes | Iterable[bytes] = self.raw()
        else:
            request = post(self.path, self.body(), self.headers, self.method)
        return round_trip(address, request, limit_s=self.limit_s, method=self.method)

    def faults(self, answer: Answer) -> list[str]:
        faults = faults_of(
            answer,
            anthropic=self.anthropic,
            outside_http=self.outside_http,
            bodiless=self.bodiless,
        )
        if not faults and self.wanted and answer.status not in self.wanted:
            faults.append(f"{answer.status} instead of {self.wanted}{DETAIL}{answer.text[:200]}")
        if answer.took_s > self.limit_s:
            faults.append(f"answered too late{DETAIL}after {answer.took_s:.1f} s")
        return faults


def asks(name: str, path: str, payload: object, **more: object) -> Attack:
    """A request with a JSON body that is small enough to be made at once."""
    return Attack(name, path, lambda: as_json(payload), **more)  # pyright: ignore[reportArgumentType]


def grouped(faults: Sequence[str]) -> list[str]:
    """One example of each sort, with how many there are; the most frequent first."""
    sorts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for fault in faults:
        sort = fault.partition(ARROW)[2].partition(DETAIL)[0]
        sorts[sort] += 1
        examples.setdefault(sort, fault[:LONGEST_LINE].replace("\n", " "))
    return [f"{count} x {examples[sort]}" for sort, count in sorts.most_common()]


@dataclass(slots=True)
class Tally:
    """What was sent of one kind, how it was answered, and what became of others meanwhile."""

    kind: str
    started_s: float = field(default_factory=time.monotonic)
    statuses: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest: str = ""
    attacks: list[tuple[str, float, float]] = field(default_factory=list)
    filled: list[tuple[Tier, float, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    # Lines to be shown as they are, such as a command that sends a request again.
    notes: list[str] = field(default_factory=list)
    probes: int = 0
    longest_wait_s: float = 0.0
    peak_mib: float = 0.0
    grown_mib: float = 0.0

    @property
    def requests(self) -> int:
        return self.statuses.total()

    def add(self, name: str, status: int | str, took_s: float) -> None:
        self.statuses[str(status or "closed")] += 1
        if took_s > self.slowest_s:
            self.slowest_s, self.slowest = took_s, name

    @contextmanager
    def attacking(self, name: str) -> Iterator[None]:
        """Everything in the block is this attack's doing."""
        started_s = time.monotonic()
        try:
            yield
        finally:
            self.attacks.append((name, started_s, time.monotonic()))

    @contextmanager
    def filling(self, tier: Tier, name: str) -> Iterator[None]:
        """An attack that takes every slot of a tier, as clients may: others wait there, or are
        refused. The other tier is none the worse for it."""
        started_s = time.monotonic()
        try:
            with self.attacking(name):
                yield
        finally:
            self.filled.append((tier, started_s, time.monotonic()))

    def excuses(self, asked: Asked) -> bool:
        """Whether the question went to a tier that was full meanwhile, and had an answer."""
        return asked.status in (200, 429) and any(
            asked.tier is tier and start < asked.until_s and end > asked.at_s
            for tier, start, end in self.filled
        )

    def during(self, asked: Asked) -> str:
        """The attacks that ran while this question waited."""
        names = [
            name for name, start, end in self.attacks if start < asked.until_s and end > asked.at_s
        ]
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        return shown or "between attacks"

    def take_probes(self, questions: Sequence[Asked]) -> list[str]:
        """The waits that were too long, and the questions that were not answered."""
        self.probes = len(questions)
        questions = [asked for asked in questions if not self.excuses(asked)]
        self.longest_wait_s = max((asked.wait_s for asked in questions), default=0.0)
        return [
            f"probe {asked.what}{ARROW}{self.during(asked)}{DETAIL}{asked.status} after "
            f"{asked.wait_s:.2f} s, at {asked.at_s - self.started_s:.1f} s {asked.error[:120]}"
            for asked in sorted(questions, key=lambda asked: -asked.wait_s)
            if asked.wait_s > LONGEST_WAIT_S or not asked.served
        ]


@dataclass(slots=True)
class Target:
    """The site, and all that must stay as it is while it is attacked."""

    site: Site
    probe: Probe
    watch: Watch
    tally: Tally

    @property
    def address(self) -> Address:
        return Address.of(self.site.url)

    def bear(self, attack: Attack) -> Answer:
        """Send it; fail unless it is answered as it should be and everything still lives."""
        return self.bear_all([attack], at_once=1)[0]

    def bear_all(self, attacks: Sequence[Attack], *, at_once: int = 8) -> list[Answer]:
        """So many at a time; all faults are reported together."""
        faults: list[str] = []

        def send(attack: Attack) -> Answer:
            with self.tally.attacking(attack.name):
                answer = attack.send(self.address)
            self.tally.add(attack.name, answer.status, answer.took_s)
            faults.extend(f"{attack.name}{ARROW}{fault}" for fault in attack.faults(answer))
            return answer

        with ThreadPoolExecutor(at_once) as pool:
            answers = list(pool.map(send, attacks))
        faults += self.deaths()
        self.tally.faults += faults
        assert not faults, "\n".join(grouped(faults))
        return answers

    def deaths(self) -> list[str]:
        """Who has died since the last look; waits until all are there again."""
        dead = self.watch.dead()
        if dead:
            self.wait_until_back()
        return [f"a death{ARROW}dead{DETAIL}{', '.join(dead)}"] if dead else []

    def wait_until_back(self) -> None:
        def is_ready() -> bool:
            with suppress(httpx.HTTPError, ValueError):
                return self.site.get("/readyz").status_code == 200
            return False

        wait_for(is_ready, "all tiers are back", RECOVERY_LIMIT_S)
        self.watch.take_stock()

    def wait_until_idle(self, within_s: float = 30.0) -> float:
        """Nothing that an attacker left behind runs or waits."""
        return wait_for(self.is_idle, "no attack runs or waits any more", within_s)

    def is_idle(self) -> bool:
        """The probe's own questions come and go."""
        with suppress(httpx.HTTPError, ValueError, KeyError):
            tiers = self.site.get("/api/tiers").json()["tiers"]
            return all((tier["running"] or 0) + (tier["queue_depth"] or 0) <= 2 for tier in tiers)
        return False

    def end_kind(self) -> list[str]:
        """What is not as it was before, once this kind of attack is over."""
        ended_s = clock_s()
        faults = self.deaths()
        if not faults:
            self.wait_until_idle()
        # A question that was asked in time has its answer by now, or is a finding.
        while clock_s() - ended_s < LONGEST_WAIT_S:
            time.sleep(0.1)
        questions = self.probe.since(self.tally.started_s)
        return [*faults, *self.tally.take_probes(questions)]
