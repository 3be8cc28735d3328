"""What changed settings do to a running tier: to its cache, and to its page of metrics."""

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from serve_app.api.access import AccessDesk
from serve_app.api.answer_cache import KeptAnswer
from serve_app.api.forwarding import Forwarder
from serve_app.config.answers import AnswerCacheConfig
from serve_app.config.engine import EngineConfig, FakeEngineConfig
from serve_app.config.scaling import SloConfig
from serve_app.config.tier import TierArgs, TierSettings, starting_settings, tier_settings
from serve_app.core.placement.hardware import T4
from serve_app.core.tiers import Tier
from serve_app.engine.fake.engine import FakeEngine
from serve_app.serving.access_start import StartedAccess
from serve_app.serving.running_tier import RunningTier
from serve_app.telemetry import TTFT_BUCKETS_S, WAIT_BUCKETS_S, make_tier_metrics
from tests.builders import lenders, peers, some_settings
from tests.virtual_time import virtual


def caching(max_age_s: float = 60.0, **changed: Any) -> TierSettings:
    cache = AnswerCacheConfig(enabled=True, max_age_s=max_age_s)
    return some_settings(**changed).model_copy(update={"answer_cache": cache})


async def a_tier(settings: TierSettings, max_model_len: int = 4096) -> RunningTier:
    engine = await FakeEngine.start(
        EngineConfig(max_model_len=max_model_len),
        FakeEngineConfig(start_s=0),
        T4,
        served_names=("chat",),
        phase=lambda name: nullcontext(),
    )
    return RunningTier.build(
        TierArgs(tier=Tier.CHAT),
        T4,
        engine,
        settings,
        make_tier_metrics(CollectorRegistry()),
        Forwarder(Tier.CHAT, peers(), lenders()),
        StartedAccess(AccessDesk()),
    )


@virtual
async def test_only_new_settings_of_the_cache_itself_give_a_new_one() -> None:
    tier = await a_tier(caching())
    try:
        tier.edge.cache.keep("one", KeptAnswer(False, (), [b"{}"]))
        tier.apply(caching(system_prompt="Be brief."))
        assert tier.edge.cache.get("one") is not None
        tier.apply(caching(max_age_s=30.0))
        assert tier.edge.cache.get("one") is None
        assert tier.edge.cache.config.max_age_s == 30.0
        tier.apply(some_settings())
        assert not tier.edge.cache.config.enabled
    finally:
        tier.engine.shutdown()
        await asyncio.sleep(0)


@virtual
async def test_a_context_shorter_than_the_default_limit_is_refused_by_its_settings_alone() -> None:
    tier = await a_tier(starting_settings(Tier.CHAT, 512), max_model_len=512)
    try:
        tier.apply(tier_settings(Tier.CHAT, {"max_new_tokens": 400}))
        with pytest.raises(ValueError, match="max_new_tokens 1024 leaves no room"):
            tier.apply(tier_settings(Tier.CHAT, {}))
        assert tier.edge.settings.max_new_tokens == 400
    finally:
        tier.engine.shutdown()
        await asyncio.sleep(0)


@virtual
async def test_refused_settings_are_on_the_page_until_others_apply() -> None:
    tier = await a_tier(caching())
    gauge = tier.edge.metrics.settings_invalid
    try:
        tier.settings_error = "max_wait_s: -1 is not above 0"
        tier.metrics_text()
        (refused,) = gauge.collect()
        assert refused.samples[0].value == 1
        tier.apply(some_settings())
        tier.metrics_text()
        (applied,) = gauge.collect()
        assert applied.samples[0].value == 0
    finally:
        tier.engine.shutdown()
        await asyncio.sleep(0)


@virtual
async def test_a_patch_of_vllm_that_is_not_installed_is_on_the_page() -> None:
    tier = await a_tier(some_settings())
    try:
        tier.engine.patches = {"stop_strings": True, "fast_routes": False}
        tier.metrics_text()
        (metric,) = tier.edge.metrics.patch_active.collect()
        values = {sample.labels["patch"]: sample.value for sample in metric.samples}
        assert values == {"stop_strings": 1, "fast_routes": 0}
    finally:
        tier.engine.shutdown()
        await asyncio.sleep(0)


@virtual
async def test_the_policy_gets_the_slo_that_holds_now() -> None:
    tier = await a_tier(some_settings())
    try:
        assert tier.autoscaling_stats()["law_slo_ttft_s"] == 2.0
        slo = SloConfig(ttft_s=3.0, tpot_s=0.04)
        tier.apply(some_settings().model_copy(update={"slo": slo}))
        reported = tier.autoscaling_stats()
        assert (reported["law_slo_ttft_s"], reported["law_slo_tpot_s"]) == (3.0, 0.04)
        assert tier.report()["settings"]["slo"] == {"ttft_s": 3.0, "tpot_s": 0.04}
    finally:
        tier.engine.shutdown()
        await asyncio.sleep(0)


@virtual
async def test_a_report_counts_what_the_metrics_observed() -> None:
    tier = await a_tier(some_settings())
    try:
        metrics = tier.edge.metrics
        metrics.ttft_s.observe(0.03)
        metrics.refused.labels(reason="queue_full").inc(2)
        observed = tier.report()["observed"]
        assert observed["ttft"] == [float(bound >= 0.03) for bound in (*TTFT_BUCKETS_S, 99)]
        assert observed["queue_wait"] == [0] * (len(WAIT_BUCKETS_S) + 1)
        assert observed["refused"] == 2
    finally:
        tier.engine.shutdown()
