"""A replica's side of keys and quotas: it reports to the ledger twice a second, and at once where
what it holds runs low, and answers from that, so that no request waits for the ledger.

Knows no Ray: the ledger is a call that takes a report, and raises LedgerLostError where there is no
answer.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from serve_app.access.credentials import Pepper, records_by_id, verify
from serve_app.api.access import Grant, LedgerLostError, QuotaExceededError, ledger_away
from serve_app.config.access import AccessConfig
from serve_app.core.access.access_key import AccessKey, KeyRecord
from serve_app.core.access.lease import (
    Amounts,
    Claim,
    KeyBalance,
    LedgerAnswer,
    ReplicaReport,
    Usage,
    UsageLabels,
)
from serve_app.core.access.lease_book import Ask, LeaseBook, Reservation
from serve_app.core.access.quota import limited

log = logging.getLogger(__name__)

Report = Callable[[ReplicaReport], Awaitable[LedgerAnswer]]
# Each report costs both ends about a millisecond: a burst of reservations shares one.
LEAST_GAP_S = 0.005
# The request that makes a report due goes to the engine first, whose prefill takes longer.
GATHER_S = 0.001
# A report takes as long as the prefill of a short prompt; what is prepaid lasts for longer.
TOP_UP_AFTER_S = 0.025
# What is leased elsewhere comes back with the next reports there.
ASK_LIMIT_S = 1.5
# Ray notices the death of a process within a second or two, that of a node later.
PROOF_LIMIT_S = 5.0
# Of a request that no other reason keeps waiting.
_BY_LEDGER = "ledger"


@dataclass(slots=True)
class LeaseHolder:
    """`Keys` and `Quotas` of the edge. `report` asks the ledger; `book` holds what it has granted.
    Belongs to one event loop."""

    book: LeaseBook
    report: Report
    pepper: Pepper
    config: AccessConfig
    clock_s: Callable[[], float] = time.monotonic
    # Whether the ledger has answered lately.
    up: bool = False
    _records: dict[str, KeyRecord] = field(default_factory=dict[str, KeyRecord])
    _revision: int = 0
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    # Set at the next answer, or once the ledger is lost; then another one takes its place.
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def loaded(self) -> bool:
        return self._revision > 0

    def find(self, presented: bytes) -> AccessKey | None:
        return verify(presented, self._records, self.pepper, time.time())

    def balance(self, key: AccessKey) -> KeyBalance | None:
        return self.book.balance(key.name, self.clock_s())

    def count(self, labels: UsageLabels, usage: Usage) -> None:
        self.book.count(labels, usage)

    async def reserve(self, key: AccessKey, need: Amounts, followed: str = "") -> Grant:
        reservation = self.book.reserve(key, need, self.clock_s(), followed)
        if reservation is None:
            reservation = await self._asked(key, need, followed)
        if reservation is not None and self.book.acknowledged(reservation):
            self._top_up_later()
        else:
            self._report_soon()
        return LeaseGrant(self, key, reservation)

    async def take_over(self, key: AccessKey, need: Amounts, followed: str) -> Grant:
        """A lost replica that has died with the stream has spent all that it had reserved for it,
        and the rest is for whoever goes on. One that is only out of reach gives back what it did
        not use: so the rest is reserved here, too, until the death is proven. A key that has not so
        much left waits for the proof."""
        tokens = limited(need, key.limits).tokens
        if not tokens:
            return await self.reserve(key, need, followed)
        claim = self.book.claim(key.name, followed, tokens)
        self._report_soon()
        grant: Grant | None = None
        try:
            try:
                grant = await self.reserve(key, need, followed)
            except QuotaExceededError:
                if not await self._proven(claim):
                    raise
        except BaseException:
            self.book.drop_claim(claim)
            raise
        return MovedGrant(self, claim, grant)

    async def _proven(self, claim: Claim) -> bool:
        """Whether the claim is covered, within the time that a death takes to be noticed."""
        try:
            async with asyncio.timeout(PROOF_LIMIT_S):
                while not self.book.is_covered(claim):
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            began_s = self.clock_s()
            await self._report_once()
            if not self.book.report_due or not self.up:
                try:
                    async with asyncio.timeout(self.config.report_period_s):
                        await self._due.wait()
                    await asyncio.sleep(GATHER_S)
                except TimeoutError:
                    pass
            self._due.clear()
            early_s = LEAST_GAP_S - (self.clock_s() - began_s)
            if early_s > 0:
                await asyncio.sleep(early_s)

    async def report_last(self) -> None:
        """What has been used since the last report, of a replica that ends; `run` has been
        cancelled."""
        if self.loaded:
            await self._report_once()

    async def until_loaded(self, timeout_s: float) -> bool:
        """Whether the keys have been read within this time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.loaded:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def settle(self, key: AccessKey, reservation: Reservation | None, used: Amounts) -> None:
        if reservation is None:
            self.book.use_unleased(key, used)
        else:
            self.book.settle(reservation, used)
            self._report_soon()

    async def acknowledged(self, reservation: Reservation) -> None:
        """Until the ledger has it on disk, or is lost; at once where it was prepaid. Raises
        RequestError 503 where the ledger had taken this replica for dead, and given its leases to
        others."""
        if not self.book.acknowledged(reservation):
            try:
                async with asyncio.timeout(self.config.acknowledge_within_s):
                    await self._known(reservation)
            except TimeoutError:
                self._lose("it does not acknowledge")
            try:
                async with asyncio.timeout(self.book.offline_in_s(self.clock_s())):
                    await self._known(reservation, even_lost=True)
            except TimeoutError:
                pass
        if reservation.void:
            raise ledger_away("This replica was cut off from the ledger of quotas.")

    async def _known(self, reservation: Reservation, *, even_lost: bool = False) -> None:
        while (self.up or even_lost) and not reservation.void:
            if self.book.acknowledged(reservation):
                return
            await self._changed.wait()

    async def _asked(self, key: AccessKey, need: Amounts, followed: str) -> Reservation | None:
        """None: nobody knows, and the operator lets it pass."""
        if not self.up:
            return self._without_ledger()
        ask = self.book.ask(key, need, followed)
        self._report_soon()
        try:
            async with asyncio.timeout(ASK_LIMIT_S):
                while ask.pending and self.up:
                    await self._changed.wait()
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            self.book.give_up(ask)
            raise
        if ask.reservation is not None:
            return ask.reservation
        return self._refused(ask)

    def _refused(self, ask: Ask) -> Reservation | None:
        refusal = ask.refusal or self.book.give_up(ask)
        if not self.up or refusal.limit == _BY_LEDGER:
            return self._without_ledger()
        raise QuotaExceededError(refusal)

    def _without_ledger(self) -> None:
        if self.config.on_ledger_loss == "refuse":
            raise LedgerLostError

    def _top_up_later(self) -> None:
        """Not beside the prefill of the request that has found the lease half empty."""
        if self.book.report_due and not self._due.is_set():
            asyncio.get_running_loop().call_later(TOP_UP_AFTER_S, self._report_soon)

    def _report_soon(self) -> None:
        if self.book.report_due:
            self._due.set()

    async def _report_once(self) -> None:
        report = self.book.report(self.clock_s())
        try:
            async with asyncio.timeout(self.config.acknowledge_within_s):
                answer = await self.report(report)
            self.book.apply(answer, self.clock_s())
        except (LedgerLostError, TimeoutError) as error:
            self._lose(str(error) or "it does not answer")
            return
        # A bug here must not end the reports for ever: the next one says all of it again.
        except Exception:
            log.exception("a report to the ledger of quotas failed")
            self._lose("a fault")
            return
        if self.book.snapshot.revision != self._revision:
            self._revision = self.book.snapshot.revision
            self._records = records_by_id(self.book.snapshot)
        if not self.up:
            self.up = True
            log.info("the ledger of quotas answers")
        self._wake()

    def _lose(self, why: str) -> None:
        self.book.go_offline()
        if self.up:
            self.up = False
            what = {
                "refuse": "requests that no lease covers are refused",
                "open": "requests that no lease covers are served without their quota",
            }[self.config.on_ledger_loss]
            log.error("the ledger of quotas is lost: %s", what, extra={"why": why})
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """`reservation` None: served while the ledger is lost, and drawn once it is back."""

    holder: LeaseHolder
    key: AccessKey
    reservation: Reservation | None

    def lower(self, tokens: int) -> None:
        if self.reservation is not None:
            self.holder.book.lower(self.reservation, tokens)

    async def acknowledged(self) -> None:
        if self.reservation is not None:
            await self.holder.acknowledged(self.reservation)

    def settle(self, used: Usage | None) -> None:
        amounts = Amounts()
        if used is not None:
            tokens = used.prompt_tokens + used.reasoning_tokens + used.answer_tokens
            amounts = Amounts(requests=used.requests, tokens=tokens)
        self.holder.settle(self.key, self.reservation, amounts)


@dataclass(frozen=True, slots=True)
class MovedGrant:
    """Of a stream that goes on here. `grant` None: what its former replica had reserved is known to
    be spent; otherwise that is asked again at its end."""

    holder: LeaseHolder
    claim: Claim
    grant: Grant | None

    def lower(self, tokens: int) -> None:
        if self.grant is not None:
            self.grant.lower(tokens)

    async def acknowledged(self) -> None:
        if self.grant is not None:
            await self.grant.acknowledged()

    def settle(self, used: Usage | None) -> None:
        if self.grant is not None:
            self.grant.settle(None if self.holder.book.is_covered(self.claim) else used)
        self.holder.book.drop_claim(self.claim)
