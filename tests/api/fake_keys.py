"""Keys and quotas without a ledger: what a test gives, and what the edge has done with it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.api.access import AccessDesk, LedgerLostError, QuotaExceededError
from serve_app.core.access.access_key import AccessKey, KeyLimits
from serve_app.core.access.lease import NOTHING, Amounts, KeyBalance, Refusal, Usage, UsageLabels
from serve_app.core.tiers import Tier
from tests.virtual_time import now_s

TEAM = b"ts-aaaaaaaa-team"
ADMIN = b"ts-bbbbbbbb-admin"
WRONG = b"ts-aaaaaaaa-wrong"


def bearer(key: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + key)]


def a_key(name: str = "team", *, admin: bool = False, **limits: Any) -> AccessKey:
    return AccessKey(name, limits=KeyLimits(**limits), admin=admin)


@dataclass
class FakeKeys:
    known: Mapping[bytes, AccessKey] = field(
        default_factory=lambda: {TEAM: a_key(), ADMIN: a_key("boss", admin=True)}
    )
    loaded: bool = True

    def find(self, presented: bytes) -> AccessKey | None:
        return self.known.get(presented)


@dataclass
class FakeGrant:
    quotas: "FakeQuotas"
    need: Amounts
    settled: list[Usage | None] = field(default_factory=list[Usage | None])
    lowered: list[int] = field(default_factory=list[int])
    begun: int = 0

    def lower(self, tokens: int) -> None:
        self.lowered.append(tokens)

    async def acknowledged(self) -> None:
        self.begun += 1
        await self.quotas.acknowledging.wait()

    def settle(self, used: Usage | None) -> None:
        self.settled.append(used)


@dataclass
class FakeQuotas:
    """Grants everything, unless `refusal` or `lost` says otherwise."""

    refusal: Refusal | None = None
    lost: bool = False
    left: KeyBalance = field(default_factory=lambda: KeyBalance(9, 900, 6.0, 0.02))
    grants: list[FakeGrant] = field(default_factory=list[FakeGrant])
    counted: list[tuple[UsageLabels, Usage]] = field(
        default_factory=list[tuple[UsageLabels, Usage]]
    )
    acknowledging: asyncio.Event = field(default_factory=asyncio.Event)
    # The ids of streams that go on here after their replicas were lost, and what they need.
    taken_over: list[tuple[str, Amounts]] = field(default_factory=list[tuple[str, Amounts]])

    def __post_init__(self) -> None:
        self.acknowledging.set()

    async def take_over(self, key: AccessKey, need: Amounts, followed: str) -> FakeGrant:
        """As where the death of the one before is proven: it has paid for all of it."""
        self.taken_over.append((followed, need))
        return FakeGrant(self, NOTHING)

    async def reserve(self, key: AccessKey, need: Amounts, followed: str = "") -> FakeGrant:
        if self.lost:
            raise LedgerLostError
        if self.refusal is not None:
            raise QuotaExceededError(self.refusal)
        self.grants.append(FakeGrant(self, need))
        return self.grants[-1]

    def balance(self, key: AccessKey) -> KeyBalance | None:
        return self.left

    def count(self, labels: UsageLabels, usage: Usage) -> None:
        self.counted.append((labels, usage))

    @property
    def settled(self) -> Sequence[Usage | None]:
        """Of each grant; a grant that is not settled exactly once is an error of the edge."""
        return [usage for grant in self.grants for (usage,) in [grant.settled]]


def a_fake_desk(
    keys: FakeKeys | None = None,
    quotas: FakeQuotas | None = None,
    *,
    tier: Tier | None = Tier.CHAT,
    **options: Any,
) -> AccessDesk:
    return AccessDesk(
        keys or FakeKeys(), quotas, tier=tier, model="org/model", now_s=now_s, **options
    )
