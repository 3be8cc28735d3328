"""Where a load goes and how long its requests may be, and what the server reports meanwhile."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from loadtest.client.server_info import models_of, tiers_of
from loadtest.errors import UserError
from loadtest.scenario import Load, Scenario
from loadtest.simulation.trace import CONTEXT_TOKENS
from serve_app.core.tiers import DEFAULT_MAX_NEW_TOKENS, Tier

PERIOD_S = 1.0
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
    """Of the first load that names the tier: its model and limits, else what the server reports.
    Of models the tier's own name where the server lists it, else the first. Raises UserError."""
    api = api_of(scenario.base_url, tier)
    tiers = await tiers_of(http, scenario.base_url) or {}
    model = load.model
    if model is None:
        names = await models_of(http, api)
        if not names:
            raise UserError(f"{api}/models lists no model: name one with --model or `model`.")
        model = tier if tier in names else names[0]
    limit = load.max_new_tokens or tiers.get(tier, {}).get("max_new_tokens")
    context = load.context_tokens
    if tier in set(Tier):
        limit = limit or DEFAULT_MAX_NEW_TOKENS[Tier(tier)]
        context = context or CONTEXT_TOKENS
    return Target(f"{api}/chat/completions", model, limit, context)


@dataclass(slots=True)
class Watch:
    """Samples of every tier, once a second; none of a server without them."""

    clock: Callable[[], float]
    samples: list[dict[str, Any]] = field(default_factory=list)

    async def run(self, http: aiohttp.ClientSession, base_url: str) -> None:
        """Until it is cancelled. A server that had tiers and does not answer leaves a gap."""
        while True:
            tiers = await tiers_of(http, base_url)
            if tiers is not None:
                watched = {
                    name: {key: tier[key] for key in WATCHED if tier.get(key) is not None}
                    for name, tier in tiers.items()
                }
                self.samples.append({"at_s": round(self.clock(), 3), "tiers": watched})
            await asyncio.sleep(PERIOD_S)
