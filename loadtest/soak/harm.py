"""Does each fault to the server, and how it is known to be over."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from loadtest.errors import MeasurementError
from loadtest.servers.processes import pids_of, role_of_tier
from loadtest.soak.load import Traffic
from loadtest.soak.plan import Turn
from loadtest.soak.server import Server, Tiers
from loadtest.soak.traffic import BY_NAME
from serve_app.local.serve_api import ServeApiError

SLOW_READERS = 8
# Where a server does not report what it can take.
DEFAULT_PLACES = 32
BURST_FACTOR = 2

IsOver = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Done:
    """What was done to whom, and how it is known that it is over."""

    target: str
    is_over: IsOver


async def harm(turn: Turn, server: Server, traffic: Traffic) -> Done:
    """Do it: to the tiers in turn. Raises MeasurementError."""
    tier = traffic.tiers[turn.round_number % len(traffic.tiers)]
    match turn.fault.name:
        case "disconnects":
            return await _many(server, traffic, tier, "storm", 1)
        case "burst":
            return await _many(server, traffic, tier, "burst", BURST_FACTOR)
        case "slow-readers":
            return _slow_readers(server, traffic)
        case "settings":
            return await _change_settings(server)
        case "replica" | "engine":
            return await _kill_of_tier(server, turn.fault.name, tier)
        case "haproxy":
            return await _kill_haproxy(server, traffic)
        case "controller":
            return await _kill_controller(server)
    raise MeasurementError(f"there is no fault {turn.fault.name}")


async def _many(server: Server, traffic: Traffic, tier: str, kind: str, factor: int) -> Done:
    places = _places((await server.tiers() or {}).get(tier, {}))
    count = factor * places
    started = [traffic.start(tier, kind) for _ in range(count)]
    return Done(f"{count} requests to {tier}, {places} places", _calm(server, traffic, started))


def _slow_readers(server: Server, traffic: Traffic) -> Done:
    started = [traffic.start(tier, "slow") for tier in traffic.tiers for _ in range(SLOW_READERS)]
    return Done(f"{SLOW_READERS} readers of each tier", _calm(server, traffic, started))


def _calm(server: Server, traffic: Traffic, started: Sequence[asyncio.Task[None]]) -> IsOver:
    """They have ended, nobody waits, and each tier serves."""

    async def is_over() -> bool:
        if not all(task.done() for task in started):
            return False
        tiers = await server.tiers()
        return _nobody_waits(tiers) and await _serves(traffic)

    return is_over


async def _change_settings(server: Server) -> Done:
    """One token less for each tier, and all back when every replica has it."""
    before = _reported(await server.tiers())
    limits = {name: tier["max_new_tokens"] for name, tier in before.items()}
    pids = _pids(before)
    changed = False

    def one_less(user_config: dict[str, Any]) -> None:
        user_config["max_new_tokens"] -= 1

    async def is_over() -> bool:
        nonlocal changed
        tiers = await server.tiers()
        if tiers is None or not _kept(pids, _pids(tiers)):
            return False
        less = 0 if changed else 1
        if any(tiers[name]["max_new_tokens"] != limit - less for name, limit in limits.items()):
            return False
        if changed:
            return True
        with contextlib.suppress(ServeApiError):  # a busy one is asked again
            await server.deploy(lambda _: None)
            changed = True
        return False

    await server.deploy(one_less)
    return Done(f"max_new_tokens of {', '.join(limits)}", is_over)


async def _kill_of_tier(server: Server, part: str, tier: str) -> Done:
    """A replica or its engine; the other one ends with it. Over: as many as before are ready."""
    before = _pids(_reported(await server.tiers()))
    victim = await _one(server, role_of_tier(part, tier))
    replica = victim if part == "replica" else psutil.Process(victim).ppid()

    async def is_over() -> bool:
        tiers = await server.tiers()
        if tiers is None or not await server.is_ready():
            return False
        now, desired = _pids(tiers)[tier], tiers[tier]["replicas_wanted"]
        as_many = len(before[tier]) if desired is None else min(desired, len(before[tier]))
        return replica not in now and len(now) >= as_many

    os.kill(victim, signal.SIGKILL)
    return Done(f"{part} of {tier}, pid {victim}", is_over)


async def _kill_haproxy(server: Server, traffic: Traffic) -> Done:
    victims = await _all(server, "haproxy")

    async def is_over() -> bool:
        return await server.is_ready() and await _serves(traffic)

    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    return Done(f"pid {', '.join(map(str, victims))}", is_over)


async def _kill_controller(server: Server) -> Done:
    """Over: a new one says that all is well, and no replica was replaced."""
    before = _pids(_reported(await server.tiers()))
    victim = await _one(server, "controller")

    async def is_over() -> bool:
        tiers = await server.tiers()
        if tiers is None or any(tier["status"] != "HEALTHY" for tier in tiers.values()):
            return False
        now = await _pids_of(server, "controller")
        return bool(now) and victim not in now and _kept(before, _pids(tiers))

    os.kill(victim, signal.SIGKILL)
    return Done(f"pid {victim}", is_over)


async def _serves(traffic: Traffic) -> bool:
    """A short request to each tier."""
    asked = (traffic.ask(tier, BY_NAME["probe"]) for tier in traffic.tiers)
    return all(record.served for record in await asyncio.gather(*asked))


async def _one(server: Server, role: str) -> int:
    return (await _all(server, role))[0]


async def _all(server: Server, role: str) -> list[int]:
    found = await _pids_of(server, role)
    if not found:
        raise MeasurementError(f"no process of the server is a {role}")
    return found


async def _pids_of(server: Server, role: str) -> list[int]:
    assert server.cluster is not None
    return await asyncio.to_thread(pids_of, server.cluster.run_id, role)


def _reported(tiers: Tiers | None) -> Tiers:
    if tiers is None:
        raise MeasurementError("GET /api/tiers does not answer")
    return tiers


def _pids(tiers: Tiers) -> dict[str, set[int]]:
    """Of ready replicas, by tier."""
    return {
        name: {replica["pid"] for replica in tier["replicas"] if replica["ready"]}
        for name, tier in tiers.items()
    }


def _kept(before: Mapping[str, set[int]], now: Mapping[str, set[int]]) -> bool:
    """Whether no replica was replaced. Fewer of them are the scaling's choice, but not none."""
    return all(
        now[tier] and len(pids - now[tier]) <= max(0, len(pids) - len(now[tier]))
        for tier, pids in before.items()
        if pids
    )


def _places(tier: Any) -> int:
    places = [
        replica.get("slots", 0) + replica.get("max_queued_requests", 0)
        for replica in tier.get("replicas", ())
    ]
    return sum(places) or DEFAULT_PLACES


def _nobody_waits(tiers: Tiers | None) -> bool:
    """Also of a server that reports nothing of its tiers."""
    return not any(tier.get("queue_depth") for tier in (tiers or {}).values())
