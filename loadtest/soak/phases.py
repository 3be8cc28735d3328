"""A soak's course: measure, warm up, then baseline, fault, recovery, again and again."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtest.client.record import Outcome
from loadtest.errors import MeasurementError
from loadtest.report.run_folder import RunFolder
from loadtest.soak.harm import harm
from loadtest.soak.load import Ended, Traffic
from loadtest.soak.observations import EVENTS, REQUESTS
from loadtest.soak.plan import Fault, Plan, Turn, next_turn
from loadtest.soak.server import Server
from loadtest.soak.traffic import shortened
from loadtest.soak.watch import COUNTS
from serve_app.local.cluster import ClusterError
from serve_app.local.serve_api import ServeApiError

POLL_S = 0.25
DRAIN_S = 180.0
IDLE_WITHIN_S = 30.0
# Of each tier while its capacity is measured: enough that no slot is idle for want of a client,
# few enough that a small machine is not busy with them.
CLIENTS = 8


@dataclass(slots=True)
class Course:
    """`phase` and `counts` are what the progress shows. Set `stopped` to end it early."""

    plan: Plan
    faults: Sequence[Fault]
    load_share: float
    server: Server
    folder: RunFolder
    traffic: Traffic = field(init=False)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    phase: str = "starting"
    coming: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    latest_wrong: str = ""

    def end(self, ended: Ended) -> None:
        """Write the request down."""
        line = {"kind": ended.kind.name, "wrong": ended.wrong, **shortened(ended.record)}
        self.folder.add(REQUESTS, line)
        self.counts["refused" if ended.record.outcome is Outcome.REFUSED else "ended"] += 1
        if ended.wrong is not None:
            self.counts["wrong"] += 1
            self.latest_wrong = f"{ended.kind.name} of {ended.record.tier}: {ended.wrong}"

    async def run(self) -> None:
        """To the end of the plan, or until it is stopped or the server has ended."""
        try:
            rates = await self._calibrate()
            async with self.traffic.running(rates):
                await self._window("warm-up", self.plan.warm_up_s)
                await self._cycles()
            await self._idle()
        except ClusterError as error:
            self._event("gone", at_s=self._now_s(), detail=f"{error} {error.detail[-500:]}")

    async def _calibrate(self) -> dict[str, float]:
        self.phase = "measuring what the server sustains"
        # What the first requests of a process cost is not its speed.
        await self.traffic.measure_capacity(1, self.plan.calibration_s / 4)
        capacity = await self.traffic.measure_capacity(CLIENTS, self.plan.calibration_s)
        rates = {
            tier: max(0.05, self.load_share * sustained) for tier, sustained in capacity.items()
        }
        self._event("calibration", clients=CLIENTS, capacity_per_s=capacity, rates_per_s=rates)
        return rates

    async def _cycles(self) -> None:
        done = 0
        while not self._is_over():
            turn = next_turn(self.plan, self.faults, done, self._now_s() + self.plan.baseline_s)
            self.coming = turn.fault.name if turn else "none"
            await self._window("baseline", self.plan.baseline_s)
            if turn is None or self._is_over():
                continue
            await self._fault(turn)
            done += 1
            await self._window("settling", self.plan.settle_s)

    async def _window(self, name: str, seconds: float) -> None:
        self.phase, begin_s = name, self._now_s()
        await self._wait(seconds)
        self._event(name, begin_s=begin_s, end_s=self._now_s())

    async def _fault(self, turn: Turn) -> None:
        """Do it and wait until it is over, or for as long as it may take."""
        fault, fired_s = turn.fault, self._now_s()
        self.phase = f"fault: {fault.name}"
        self._event("fault-begins", name=fault.name, begin_s=fired_s)
        target, over_s, detail = "", None, ""
        try:
            # A request of `is_over` itself may hang where the fault did what it should not.
            async with asyncio.timeout(fault.within_s):
                done = await harm(turn, self.server, self.traffic)
                target = done.target
                while over_s is None and await self._wait(POLL_S):
                    over_s = self._now_s() if await done.is_over() else None
        except TimeoutError:
            detail = f"{target}: not over after {fault.within_s:.0f} s"
        except (MeasurementError, ServeApiError) as reason:
            detail = str(reason)
        self._event(
            "fault",
            name=fault.name,
            round=turn.round_number,
            target=target,
            begin_s=fired_s,
            over_s=over_s,
            end_s=self._now_s(),
            stopped=self.stopped.is_set(),
            detail=detail,
        )

    async def _idle(self) -> None:
        """All clients have disconnected: so are the server's counts, or something was lost."""
        self.phase, self.coming = "waiting for the last answers", ""
        given_up = await self.traffic.drain(DRAIN_S)
        began_s, left = self._now_s(), await self._counts_left()
        while left and self._now_s() < began_s + IDLE_WITHIN_S:
            await asyncio.sleep(POLL_S)
            left = await self._counts_left()
        self._event("idle", after_s=self._now_s() - began_s, left=left, given_up=given_up)

    async def _counts_left(self) -> Mapping[str, Any]:
        """What a server that has no client still counts; empty if all is 0."""
        tiers = await self.server.tiers()
        if tiers is None:
            return {"GET /api/tiers": "no answer"} if self.server.cluster is not None else {}
        return {
            f"{name} {count}": tier[count]
            for name, tier in tiers.items()
            for count in COUNTS
            if tier.get(count)
        }

    async def _wait(self, seconds: float) -> bool:
        """False if it was stopped meanwhile."""
        end_s = self._now_s() + seconds
        while (left_s := end_s - self._now_s()) > 0 and not self.stopped.is_set():
            self.server.check_alive()
            try:
                await asyncio.wait_for(self.stopped.wait(), min(left_s, 1.0))
            except TimeoutError:
                continue
        return not self.stopped.is_set()

    def _is_over(self) -> bool:
        return self.stopped.is_set() or self._now_s() >= self.plan.duration_s

    def _now_s(self) -> float:
        return round(self.traffic.client.clock(), 3)

    def _event(self, kind: str, **details: Any) -> None:
        self.folder.add(EVENTS, {"event": kind, **details})
