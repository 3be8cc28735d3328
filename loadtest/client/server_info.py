"""What a server reports of itself: models, tiers, memory, KV cache, how long its start took."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from loadtest.errors import UserError

TIMEOUT = aiohttp.ClientTimeout(total=5)
MEMORY, CACHE_INFO = "process_resident_memory_bytes", "vllm:cache_config_info"


async def get(http: aiohttp.ClientSession, url: str) -> Any:
    """JSON as what it is, other text as text, None where there is nothing."""
    try:
        async with http.get(url, timeout=TIMEOUT) as response:
            if response.status != 200:
                return None
            is_json = response.content_type == "application/json"
            return await response.json() if is_json else await response.text()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None


def root_of(base_url: str) -> str:
    return "{0.scheme}://{0.netloc}".format(urlsplit(base_url))


async def models_of(http: aiohttp.ClientSession, api: str) -> list[str] | None:
    """The models that a base URL with /v1 lists, by name; None where there is no such list.
    Raises UserError where nobody answers."""
    try:
        async with http.get(f"{api}/models", timeout=TIMEOUT) as response:
            document = await response.json(content_type=None) if response.status == 200 else {}
    except (aiohttp.ClientConnectionError, TimeoutError) as error:
        raise UserError(f"{api} cannot be reached: {error or 'no answer'}") from None
    except (aiohttp.ClientError, ValueError):
        return None
    listed = document.get("data") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        return None
    return [str(model["id"]) for model in listed if isinstance(model, dict) and "id" in model]


async def tiers_of(
    http: aiohttp.ClientSession, base_url: str
) -> Mapping[str, Mapping[str, Any]] | None:
    """`GET /api/tiers`, by tier; None of a server that has no tiers, or none just now."""
    document = await get(http, f"{root_of(base_url)}/api/tiers")
    listed = document.get("tiers") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        return None
    return {str(tier["tier"]): tier for tier in listed if isinstance(tier, dict) and "tier" in tier}


async def metrics_of(http: aiohttp.ClientSession, base_url: str) -> str:
    """`GET /metrics`; empty where there are none."""
    text = await get(http, f"{root_of(base_url)}/metrics")
    return text if isinstance(text, str) else ""


def memory_bytes(metrics: str, tier: str | None) -> float | None:
    """The largest resident memory, of this tier's replicas if labelled; None if not reported."""
    return max((sample.value for sample in _samples(metrics, MEMORY, tier)), default=None)


def kv_tokens_of(metrics: str, tier: str | None) -> int | None:
    """Blocks times block size from vLLM's metrics; None if they are not reported."""
    for sample in _samples(metrics, CACHE_INFO, tier):
        try:
            return int(sample.labels["num_gpu_blocks"]) * int(sample.labels["block_size"])
        except (KeyError, ValueError):
            return None
    return None


def start_s_of(tier: Mapping[str, Any]) -> float | None:
    """The slowest replica's whole start, from its process to its first health check."""
    phases = [replica.get("start_phases_s") or {} for replica in tier.get("replicas") or []]
    return max((phase["total"] for phase in phases if "total" in phase), default=None)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Of the one replica of a tier, what a profile needs; None is not reported."""

    model: str | None
    slots: int | None
    accelerator_type: str | None
    kv_tokens: int | None
    start_s: Mapping[str, float] | None


async def info_of(http: aiohttp.ClientSession, base_url: str, tier: str) -> ServerInfo:
    """Raises UserError where the tier is not there or has not exactly one replica."""
    tiers = await tiers_of(http, base_url)
    metrics = await metrics_of(http, base_url)
    if tiers is None:
        return ServerInfo(None, None, None, kv_tokens_of(metrics, None), None)
    if tier not in tiers:
        raise UserError(f"--tier {tier}: the server has {', '.join(tiers)}")
    replica = only_replica(tiers, tier)
    if replica.get("engine") == "fake":
        raise UserError(f"The {tier} tier runs the fake engine: there is nothing to measure.")
    return ServerInfo(
        model=tiers[tier].get("model"),
        slots=replica.get("slots"),
        accelerator_type=replica.get("accelerator_type"),
        kv_tokens=kv_tokens_of(metrics, tier),
        start_s=replica.get("start_phases_s") or None,
    )


def only_replica(tiers: Mapping[str, Mapping[str, Any]], tier: str) -> Mapping[str, Any]:
    """Raises UserError."""
    replicas = tiers[tier].get("replicas") or []
    if len(replicas) != 1:
        raise UserError(
            f"The {tier} tier has {len(replicas)} replicas; one is to be measured: set "
            "min_replicas and max_replicas to 1."
        )
    return replicas[0]


def _samples(metrics: str, name: str, tier: str | None) -> Iterator[Any]:
    """Of Prometheus' text format, of this tier if labelled."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        found = [s for family in text_string_to_metric_families(metrics) for s in family.samples]
    except ValueError:
        return
    yield from (s for s in found if s.name == name and s.labels.get("tier", tier) == tier)
