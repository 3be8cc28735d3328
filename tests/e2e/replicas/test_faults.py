"""Parts are killed one at a time under load; what was cut and what failed is counted."""

import psutil

from loadtest.studies.continuity.streams import percentile
from serve_app.core.tiers import Tier
from tests.e2e.aftermath import break_under_load
from tests.e2e.replicas.continued import continued
from tests.e2e.replicas.faults import answers, kill, process_of
from tests.e2e.site import Site

# A process that starts vLLM anew, on cores that go on serving.
NEW_REPLICA_WITHIN_S = 150.0
# Beside four of chat's own, with which the replica that is left is full.
V1_STREAMS, V1_TOKENS = 4, 1500
V1_SILENCE_S = 5.0


def pids(site: Site, tier: Tier) -> set[int]:
    return {replica["pid"] for replica in site.tier(tier)["replicas"] if replica["ready"]}


async def test_one_of_two_replicas(site: Site) -> None:
    before = pids(site, Tier.CHAT)
    victim = psutil.Process(min(before))
    async with continued(site, Tier.CHAT, V1_STREAMS, V1_TOKENS) as v1:
        aftermath = await break_under_load(
            lambda: site.url,
            lambda: kill(victim),
            lambda: len(pids(site, Tier.CHAT) - {victim.pid}) == 2,
            within_s=NEW_REPLICA_WITHIN_S,
        )
    aftermath.keep("one of two replicas")
    v1.assert_nobody_noticed()
    assert v1.replayed >= 1
    # At the other replica, which has room for them.
    assert percentile(v1.gaps_s(), 95) < V1_SILENCE_S
    assert 1 <= aftermath.cut(Tier.CHAT) <= 4
    assert aftermath.cut(Tier.REASONING) == 0
    assert aftermath.failed(Tier.CHAT) == []
    assert aftermath.failed(Tier.REASONING) == []
    assert max(aftermath.longest_s(tier) for tier in Tier) < 10.0


async def test_the_engine_of_the_only_replica(site: Site) -> None:
    (before,) = pids(site, Tier.REASONING)
    (engine,) = (
        child
        for child in psutil.Process(before).children(recursive=True)
        if child.cmdline() and child.cmdline()[0].startswith("VLLM::EngineCore")
    )
    async with continued(site, Tier.REASONING, V1_STREAMS, V1_TOKENS) as v1:
        aftermath = await break_under_load(
            lambda: site.url,
            lambda: kill(engine),
            lambda: pids(site, Tier.REASONING) not in (set(), {before}),
            within_s=NEW_REPLICA_WITHIN_S,
        )
    aftermath.keep("the engine of the only replica")
    # They were kept until there was a replica again.
    v1.assert_nobody_noticed()
    assert v1.replayed == V1_STREAMS
    assert aftermath.cut(Tier.CHAT) == 0
    assert aftermath.failed(Tier.CHAT) == []
    # Those that came after the process had ended waited for the new one, or were refused.
    lost = [reply for reply in aftermath.failed(Tier.REASONING) if reply.status != 429]
    assert len(lost) <= 10
    assert not psutil.pid_exists(before)
    # It has read how the replica failed, without importing vLLM for it.
    maps = process_of(site, "ray::ServeController").memory_maps()
    assert not [each.path for each in maps if "libtorch" in each.path]


async def test_haproxy(site: Site) -> None:
    before = {tier: pids(site, tier) for tier in Tier}
    victim, manager = (process_of(site, title) for title in ("haproxy", "ray::HAProxyManager"))
    aftermath = await break_under_load(
        lambda: site.url,
        lambda: kill(victim),
        lambda: answers(site),
        within_s=20.0,
        # It is back sooner than the next request comes.
        afterwards_s=2.0,
    )
    aftermath.keep("HAProxy")
    assert aftermath.back_s < 2.0
    assert {tier: pids(site, tier) for tier in Tier} == before
    # Ray has noticed nothing: another HAProxy took the sockets of the one before.
    assert process_of(site, "ray::HAProxyManager").pid == manager.pid
    assert process_of(site, "haproxy").pid != victim.pid
    for tier in Tier:
        # What it had accepted in its last moment; whoever came then waited for the next one.
        assert len(aftermath.failed(tier)) <= 1
        assert aftermath.failing_for_s(tier) < 0.5


async def test_the_controller(site: Site) -> None:
    before = {tier: pids(site, tier) for tier in Tier}
    victim = process_of(site, "ray::ServeController")
    aftermath = await break_under_load(
        lambda: site.url,
        lambda: kill(victim),
        lambda: all(site.tier(tier)["status"] == "HEALTHY" for tier in Tier),
        within_s=60,
    )
    aftermath.keep("the controller")
    assert {tier: pids(site, tier) for tier in Tier} == before
    for tier in Tier:
        assert aftermath.cut(tier) == 0
        assert aftermath.failed(tier) == []
