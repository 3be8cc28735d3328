"""Streams of `/v1` go on when their replica is killed or taken away: two replicas of chat with the
fake engine, whose streams are as long as they are asked to be."""

import random
from statistics import median

from loadtest.servers.ray_nodes import RTX_4090, T4
from loadtest.studies.continuity.command import one_fault, unbroken_runs
from loadtest.studies.continuity.faults import Service
from loadtest.studies.continuity.results import Cut
from loadtest.studies.continuity.streams import Ask, percentile
from serve_app.core.tiers import Tier
from tests.e2e.client import client_session
from tests.e2e.cluster.mixed import FAKE, await_replicas, deploy, mixed_config
from tests.e2e.figures import keep_figures
from tests.e2e.site import Site, assert_in_time

STREAMS, TOKENS = 16, 500
# A token each 30 ms on either type of GPU: of streams that began together none ends before another.
STEP = {"base_ms": 30.0, "per_sequence_ms": 0.1, "per_prompt_token_ms": 0.3, "kv_tokens": 100_000}
# From the order to the end of the replica's process.
DRAINED_WITHIN_S = 10.0
SILENCE_P95_S = 2.0


def asked() -> list[Ask]:
    more = {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 0, "stream": True}
    counted = {**more, "stream_options": {"include_usage": True}}
    return [
        Ask(
            "text",
            "/v1/chat/completions",
            {
                "model": "chat",
                "messages": [{"role": "user", "content": f"stream {number}"}],
                **counted,
            },
        )
        for number in range(STREAMS)
    ]


def assert_nobody_noticed(cuts: list[Cut]) -> None:
    assert [(cut.at_event, cut.why) for cut in cuts if not cut.whole] == []
    assert [cut.differences for cut in cuts if cut.differences] == []


async def test_a_killed_and_a_drained_replica_lose_no_stream_of_v1(site: Site) -> None:
    fake = {"start_s": FAKE["start_s"], "cards": {T4: STEP, RTX_4090: STEP}}
    config = mixed_config(chat=(2, 2), slots=STREAMS, lend_share=0.0, engine={"fake": fake})
    deploy(site, config)
    await_replicas(site, chat=2, reasoning=1)
    rng = random.Random(0)
    async with client_session() as session:
        service = Service(site.cluster, session, config, Tier.CHAT, 2)
        unbroken = await unbroken_runs(service, asked())

        gone_s: list[float] = []
        silence_p95_s: list[float] = []

        async def drain() -> float:
            drained, took_s = await one_fault(service, "drain", asked(), unbroken, rng)
            assert len(drained) == STREAMS
            assert_nobody_noticed(drained)
            gone_s.append(took_s)
            return took_s

        async def kill() -> float:
            """All its streams are silent at once, so one pause of the machine is in all of them."""
            killed, _ = await one_fault(service, "replica", asked(), unbroken, rng)
            assert_nobody_noticed(killed)
            continued = [cut for cut in killed if cut.replays == 1]
            assert continued
            silence_p95_s.append(percentile([cut.gap_s for cut in continued], 95))
            return silence_p95_s[-1]

        await assert_in_time(drain, DRAINED_WITHIN_S)
        await assert_in_time(kill, SILENCE_P95_S)
        keep_figures(
            "hand-over", drained_within_s=median(gone_s), silence_p95_s=median(silence_p95_s)
        )
