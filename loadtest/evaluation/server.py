"""What a server tells of itself: its models, how long it took to load, how much memory it has."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp

from loadtest.evaluation.ask import Unreachable
from loadtest.evaluation.faults import EvaluationFault

if TYPE_CHECKING:
    from openai import AsyncOpenAI

MEMORY = "process_resident_memory_bytes"
TIMEOUT = aiohttp.ClientTimeout(total=5)
SAMPLE_PERIOD_S = 5.0


async def choose_model(client: "AsyncOpenAI", wanted: str | None) -> str:
    """The wanted model if the server has it, else its first one."""
    from openai import APIConnectionError, APIError, APIStatusError

    try:
        names = [card.id for card in (await client.models.list()).data]
    except APIConnectionError as fault:
        reason = fault.__cause__ or fault
        raise Unreachable(f"{client.base_url} cannot be reached: {reason}.") from None
    except APIStatusError as refusal:
        if refusal.status_code == 404 and wanted:
            return wanted  # a server without a list of models
        raise EvaluationFault(
            f"{client.base_url}models answers {refusal.status_code}: {refusal.message}"
        ) from None
    except (APIError, ValueError, TypeError, AttributeError):
        raise EvaluationFault(f"{client.base_url}models is no OpenAI list of models.") from None
    if wanted is None and names:
        return names[0]
    if wanted is None:
        raise EvaluationFault(f"{client.base_url} serves no model.")
    if wanted not in names:
        raise EvaluationFault(
            f"{client.base_url} has no model {wanted!r}; it serves {', '.join(names) or 'none'}."
        )
    return wanted


@dataclass(slots=True)
class ServerFacts:
    """None is what the server does not tell. Memory is the largest that was seen, in bytes, of the
    process that reports it: host memory, not a card's."""

    load_s: float | None = None
    memory_peak_bytes: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"load_s": self.load_s, "memory_peak_bytes": self.memory_peak_bytes}

    def see_memory(self, seen_bytes: float | None) -> None:
        told = [value for value in (self.memory_peak_bytes, seen_bytes) if value is not None]
        self.memory_peak_bytes = max(told, default=None)


async def watch(base_url: str, model: str, facts: ServerFacts) -> None:
    """Until it is cancelled: the load time once, the memory every few seconds."""
    root = "{0.scheme}://{0.netloc}".format(urlsplit(base_url))
    async with aiohttp.ClientSession(timeout=TIMEOUT) as http:
        tier = _tier_of(await _get(http, f"{root}/api/tiers"), urlsplit(base_url).path, model)
        facts.load_s = told if (told := _load_s(tier)) is not None else facts.load_s
        while True:
            text = await _get(http, f"{root}/metrics")
            facts.see_memory(
                memory_bytes(text, tier.get("tier")) if isinstance(text, str) else None
            )
            await asyncio.sleep(SAMPLE_PERIOD_S)


async def _get(http: aiohttp.ClientSession, url: str) -> Any:
    """JSON as what it is, other text as text, None where there is nothing."""
    try:
        async with http.get(url) as response:
            if response.status != 200:
                return None
            is_json = response.content_type == "application/json"
            return await response.json() if is_json else await response.text()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None


def _tier_of(told: Any, path: str, model: str) -> Mapping[str, Any]:
    """The tier below whose URL the requests go, else the one that is or serves the model."""
    listed = told.get("tiers") if isinstance(told, dict) else None
    tiers = [tier for tier in listed or [] if isinstance(tier, dict)]
    for tier in tiers:
        if path.startswith(f"{tier.get('url')}/") or path == tier.get("url"):
            return tier
    return next((tier for tier in tiers if model in (tier.get("tier"), tier.get("model"))), {})


def _load_s(tier: Mapping[str, Any]) -> float | None:
    """The slowest replica's whole start, from its process to its first health check."""
    phases = [replica.get("start_phases_s") or {} for replica in tier.get("replicas") or []]
    return max((phase["total"] for phase in phases if "total" in phase), default=None)


def memory_bytes(metrics: str, tier: str | None) -> float | None:
    """The largest resident memory in Prometheus' text format, of this tier's replicas if labelled;
    None if it is not told."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        samples = [s for f in text_string_to_metric_families(metrics) for s in f.samples]
    except ValueError:
        return None
    return max(
        (
            sample.value
            for sample in samples
            if sample.name == MEMORY and sample.labels.get("tier", tier) == tier
        ),
        default=None,
    )
