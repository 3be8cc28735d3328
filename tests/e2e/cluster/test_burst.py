"""A burst on chat: how soon a replica is decided on and serves, and that nothing is lost when it
goes again. The engines are the fake one with a start of two seconds."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import aiohttp

from loadtest.servers.ray_nodes import RTX_4090, T4, idle_processes
from serve_app.core.tiers import Tier
from tests.e2e.client import Reply, ask, client_session, work
from tests.e2e.cluster.mixed import (
    FAKE,
    REPLICAS_WITHIN_S,
    accelerator_types,
    await_replicas,
    deploy,
    mixed_config,
    ready,
    ready_names,
)
from tests.e2e.cluster.watch import PERIOD_S, Watch, watching
from tests.e2e.figures import keep_figures
from tests.e2e.machine_clock import clock_s
from tests.e2e.site import Site, drain_lines, wait_for

# A token each 20 ms on either type of GPU, so that the cores are free for what is measured and a
# stream takes as long wherever it runs.
STEP = {"base_ms": 20.0, "per_sequence_ms": 0.1, "per_prompt_token_ms": 0.3, "kv_tokens": 100_000}
# About 56 s of work for one replica: 4 streams at a time.
SLOTS, STREAMS, TOKENS = 4, 56, 200
# 60 s: outlasts what is kept after a burst (slow mean of arrivals 40 s, the hold, Serve's delay).
LONG_TOKENS = 3000
DECISION_S, FIRST_SERVED_S = 3.0, 8.0


def test_a_burst_adds_a_replica_in_time_and_the_calm_takes_it_away(site: Site) -> None:
    """A start is a Python process on cores that others may want: where the first one is too slow,
    the median of three counts."""
    rounds: list[Burst] = []
    while not rounds or (len(rounds) < 3 and not rounds[0].in_time):
        _deploy_anew(site, seed=len(rounds))
        drained = len(drain_lines(site.cluster.log_dir))
        rounds.append(asyncio.run(_burst_and_calm(site, drained)))
    await_replicas(site, chat=1, reasoning=1)
    wait_for(site.is_idle, "nothing is left")
    keep_figures("burst: one replica to two", rounds=[asdict(burst) for burst in rounds])
    assert median(burst.decision_s for burst in rounds) <= DECISION_S, rounds
    assert median(burst.first_served_s for burst in rounds) <= FIRST_SERVED_S, rounds


def _deploy_anew(site: Site, *, seed: int) -> None:
    """With a chat replica that has learnt nothing: the probes of a round before teach that answers
    are short, and then the policy rightly expects the same burst to be over soon."""
    before = ready_names(site, Tier.CHAT)
    fake = {"start_s": FAKE["start_s"], "seed": seed, "cards": {T4: STEP, RTX_4090: STEP}}
    deploy(site, mixed_config(chat=(1, 2), slots=SLOTS, engine={"fake": fake}))
    # The old one still answers for a while, and is in nobody's count then.
    wait_for(lambda: ready_names(site, Tier.CHAT) - before, "chat's new replica", REPLICAS_WITHIN_S)
    await_replicas(site, chat=1, reasoning=1)
    wait_for(lambda: site.tier(Tier.CHAT)["replicas_wanted"] == 1, "Serve counts it")
    (replica,) = ready(site, Tier.CHAT)
    assert not replica["service_measured"]
    # As on a cluster at rest; seconds after a GPU became free a replica starts slower (ADR 15).
    # Where the old replica still held its GPU, the new one has taken the other type.
    free = RTX_4090 if accelerator_types(site, Tier.CHAT) == [T4] else T4
    wait_for(lambda: idle_processes(free), "a worker is pre-started", REPLICAS_WITHIN_S)


@dataclass(frozen=True, slots=True)
class Burst:
    """Seconds from its first request."""

    decision_s: float
    reports_s: float
    first_served_s: float
    process_s: float

    @property
    def in_time(self) -> bool:
        return self.decision_s <= DECISION_S and self.first_served_s <= FIRST_SERVED_S


async def _burst_and_calm(site: Site, drained: int) -> Burst:
    async with client_session() as session, watching(session, site.url) as watch:
        first = await watch.first("a first sight", lambda _: True, within_s=10)
        burst = await _burst(site, session, watch, first.names(Tier.CHAT))
        await _calm(site, session, watch, drained)
        for sight in watch.sights:
            assert sight.wanted(Tier.REASONING) == 1
            assert sight.names(Tier.REASONING) <= first.names(Tier.REASONING)
        return burst


async def _burst(
    site: Site, session: aiohttp.ClientSession, watch: Watch, before: frozenset[str]
) -> Burst:
    url = f"{site.url}/api/chat"
    began_s = clock_s()
    streams = [
        asyncio.create_task(ask(session, url, work(f"burst {i}", TOKENS, stream=True)))
        for i in range(STREAMS)
    ]
    decided = await watch.first("decided", lambda sight: sight.wanted(Tier.CHAT) > 1, within_s=20)
    reports = await watch.first(
        "reports", lambda sight: bool(sight.names(Tier.CHAT) - before), within_s=60
    )
    served = await watch.first(
        "served by the new replica",
        lambda sight: bool(sight.computing(Tier.CHAT) - before),
        within_s=60,
    )
    new = served.names(Tier.CHAT) - before
    assert any(not stream.done() for stream in streams), "the burst must outlast the start"
    assert served.accelerator_types(Tier.CHAT) == [RTX_4090, T4]
    replies = await asyncio.gather(*streams)
    assert _lost(replies) == []
    times = (round(sight.at_s - began_s, 2) for sight in (decided, reports, served))
    return Burst(*times, process_s=max(served.process_s(name) for name in new))


async def _calm(site: Site, session: aiohttp.ClientSession, watch: Watch, drained: int) -> None:
    """A stream on each replica, and a short request now and then, while one of them goes."""
    url = f"{site.url}/api/chat"
    streams: list[asyncio.Task[Reply]] = []
    # What is still reported of the burst must not look like these streams.
    await watch.first(
        "the burst is over", lambda sight: not sight.computing(Tier.CHAT), within_s=20
    )
    # HAProxy alternates, but where it begins is its own affair.
    while len(watch.sights[-1].computing(Tier.CHAT)) < 2:
        assert len(streams) < SLOTS, "each replica must get a stream"
        usage = {"include_usage": True}
        body = work(f"long {len(streams)}", LONG_TOKENS, stream=True, stream_options=usage)
        streams.append(asyncio.create_task(ask(session, url, body)))
        await watch.first(
            "it runs", lambda sight: sight.running(Tier.CHAT) == len(streams), within_s=20
        )
        await asyncio.sleep(3 * PERIOD_S)
    began_s = clock_s()
    probes: list[Reply] = []
    while len(drain_lines(site.cluster.log_dir)) == drained:
        probes.append(await ask(session, url, work(f"probe {len(probes)}", 2, stream=False)))
        assert not any(stream.done() for stream in streams), "a replica must go while they run"
        await asyncio.sleep(0.2)
    draining_s = round(clock_s() - began_s, 2)
    assert not any(stream.done() for stream in streams)
    for number in range(10):
        probes.append(await ask(session, url, work(f"late {number}", 2, stream=False)))
    ends = await asyncio.gather(*streams)
    assert _lost([*probes, *ends]) == []
    assert {stream.completion_tokens for stream in ends} == {LONG_TOKENS}
    keep_figures(
        "calm: two replicas to one",
        draining_s=draining_s,
        requests=len(probes) + len(streams),
        streams_s=[round(stream.e2e_s, 1) for stream in ends],
    )


def _lost(replies: Sequence[Reply]) -> list[tuple[int, str, str]]:
    return [(reply.status, reply.fault, reply.text[-300:]) for reply in replies if not reply.served]
