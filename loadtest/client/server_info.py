"""What a server tells of itself that a profile needs: slots, KV cache, its start, its card."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from loadtest.load.faults import LoadFault
from loadtest.load.server import TIMEOUT, tiers_of

CACHE_INFO = "vllm:cache_config_info"


@dataclass(frozen=True, slots=True)
class Told:
    """None: the server does not say."""

    model: str | None
    slots: int | None
    accelerator_type: str | None
    kv_tokens: int | None
    start_s: Mapping[str, float] | None


async def told_by(http: aiohttp.ClientSession, base_url: str, tier: str) -> Told:
    """Raises LoadFault where the tier is not there or has not exactly one replica."""
    tiers = await tiers_of(http, base_url)
    metrics = await _metrics(http, base_url)
    if tiers is None:
        return Told(None, None, None, kv_tokens_of(metrics, None), None)
    if tier not in tiers:
        raise LoadFault(f"--tier {tier}: the server has {', '.join(tiers)}")
    entry = tiers[tier]
    replicas = entry.get("replicas") or []
    if len(replicas) != 1:
        raise LoadFault(
            f"The {tier} tier has {len(replicas)} replicas. Calibration measures one engine: set "
            "min_replicas and max_replicas to 1."
        )
    replica: Mapping[str, Any] = replicas[0]
    if replica.get("engine") == "fake":
        raise LoadFault(f"The {tier} tier runs the fake engine: there is nothing to measure.")
    return Told(
        model=entry.get("model"),
        slots=replica.get("slots"),
        accelerator_type=replica.get("accelerator_type"),
        kv_tokens=kv_tokens_of(metrics, tier),
        start_s=replica.get("start_phases_s") or None,
    )


def kv_tokens_of(metrics: str, tier: str | None) -> int | None:
    """Blocks times block size from vLLM's metrics; None if they do not say."""
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            labels = sample.labels
            if sample.name != CACHE_INFO or labels.get("tier", tier) != tier:
                continue
            try:
                return int(labels["num_gpu_blocks"]) * int(labels["block_size"])
            except (KeyError, ValueError):
                return None
    return None


async def _metrics(http: aiohttp.ClientSession, base_url: str) -> str:
    root = "{0.scheme}://{0.netloc}".format(urlsplit(base_url))
    try:
        async with http.get(f"{root}/metrics", timeout=TIMEOUT) as response:
            return await response.text() if response.status == 200 else ""
    except (aiohttp.ClientError, TimeoutError):
        return ""
