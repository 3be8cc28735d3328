"""What a server tells of itself before and while it is asked: models, limits, queues, replicas."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from loadtest.load.faults import LoadFault
from loadtest.load.scenario import Load, Scenario
from loadtest.simulation.trace import CONTEXT_TOKENS
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier

PERIOD_S = 1.0
TIMEOUT = aiohttp.ClientTimeout(total=5)
# Of each tier, as `GET /api/tiers` has them.
WATCHED = (
    *("queue_depth", "queued", "running", "lent", "borrowed", "slots"),
    *("replicas_running", "replicas_wanted", "output_tokens_per_s"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a tier's requests go, and how long they may be. None: it is not known."""

    url: str
    model: str
    max_new_tokens: int | None
    context_tokens: int | None

    def fit(self, input_tokens: int, output_tokens: int) -> tuple[int, int, bool]:
        """Lengths that the tier takes, and whether that made one shorter."""
        answer, prompt = output_tokens, input_tokens
        if self.max_new_tokens is not None:
            answer = min(answer, self.max_new_tokens)
        if self.context_tokens is not None:
            answer = min(answer, max(1, self.context_tokens - 1))
            prompt = min(prompt, max(1, self.context_tokens - (self.max_new_tokens or answer)))
        return prompt, answer, (prompt, answer) != (input_tokens, output_tokens)


def api_of(base_url: str, tier: str) -> str:
    """A base URL with /v1 is any server's; one without is a server with tiers."""
    base = base_url.rstrip("/")
    return base if base.endswith("/v1") else f"{base}/api/{tier}/v1"


async def find_target(
    http: aiohttp.ClientSession, scenario: Scenario, tier: str, load: Load
) -> Target:
    """Of the first load that names the tier: its model and limits, else what the server tells."""
    api = api_of(scenario.base_url, tier)
    told = await tiers_of(http, scenario.base_url)
    model = load.model or await _first_model(http, api, tier)
    limit = load.max_new_tokens or (told or {}).get(tier, {}).get("max_new_tokens")
    context = load.context_tokens
    if tier in set(Tier):
        limit = limit or DEFAULT_MAX_NEW_TOKENS[Tier(tier)]
        context = context or CONTEXT_TOKENS
    return Target(f"{api}/chat/completions", model, limit, context)


async def _first_model(http: aiohttp.ClientSession, api: str, tier: str) -> str:
    """The tier's own name where the server lists it, else the first listed."""
    try:
        async with http.get(f"{api}/models", timeout=TIMEOUT) as response:
            document = await response.json(content_type=None) if response.status == 200 else {}
    except (aiohttp.ClientConnectionError, TimeoutError) as fault:
        raise LoadFault(f"{api} cannot be reached: {fault or 'no answer'}") from None
    except (aiohttp.ClientError, ValueError):
        document = {}
    cards = document.get("data") if isinstance(document, dict) else None
    names = [str(card["id"]) for card in cards or () if isinstance(card, dict) and "id" in card]
    if not names:
        raise LoadFault(f"{api}/models lists no model: name one with --model or `model`.")
    return tier if tier in names else names[0]


async def tiers_of(
    http: aiohttp.ClientSession, base_url: str
) -> Mapping[str, Mapping[str, Any]] | None:
    """What `GET /api/tiers` says, by tier; None of a server that has no tiers, or none just now."""
    root = "{0.scheme}://{0.netloc}".format(urlsplit(base_url))
    try:
        async with http.get(f"{root}/api/tiers", timeout=TIMEOUT) as response:
            document = await response.json(content_type=None) if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
    listed = document.get("tiers") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        return None
    return {str(tier["tier"]): tier for tier in listed if isinstance(tier, dict) and "tier" in tier}


@dataclass(slots=True)
class Watch:
    """Samples of every tier, once a second; none of a server without them."""

    clock: Callable[[], float]
    samples: list[dict[str, Any]] = field(default_factory=list)

    async def run(self, http: aiohttp.ClientSession, base_url: str) -> None:
        """Until it is cancelled. A server that had tiers and does not answer leaves a gap."""
        while True:
            told = await tiers_of(http, base_url)
            if told is not None:
                self.samples.append({"at_s": round(self.clock(), 3), "tiers": _watched(told)})
            await asyncio.sleep(PERIOD_S)


def _watched(told: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: tier[key] for key in WATCHED if tier.get(key) is not None}
        for name, tier in told.items()
    }
