"""What each tier's replicas report to the other's of their limit, through Ray's key-value store.

An error then sends a client to the other tier only where that one would take the request.
"""

import asyncio
import json
import logging
import time
from typing import Any

from ray.exceptions import RayError

from serve_app.autoscaling.decision_store import NAMESPACE
from serve_app.core.tiers import Tier
from serve_app.serving.ray_internals import kv_get, kv_put
from serve_app.serving.running_tier import RunningTier

log = logging.getLogger(__name__)

REPORT_EVERY_S = 2.0
# Clocks of two nodes may differ by some of it. A tier that has reported nothing for so long
# has no replicas.
BELIEVED_S = 30.0


async def exchange_limits(tier: RunningTier) -> None:
    """Report this tier's limit, and keep the other's at the edge, until cancelled."""
    while True:
        try:
            tier.edge.reader.other_tiers_limit = await asyncio.to_thread(
                _exchanged, tier.args.tier, tier.edge.settings.max_new_tokens
            )
        except (RayError, RuntimeError, OSError, ValueError) as error:
            # The head may be away for a while; nobody is sent to a tier that is not known.
            tier.edge.reader.other_tiers_limit = None
            log.debug("limits not exchanged: %s", error)
        await asyncio.sleep(REPORT_EVERY_S)


def _exchanged(tier: Tier, max_new_tokens: int) -> int | None:
    """Two calls to the head."""
    report = json.dumps({"max_new_tokens": max_new_tokens, "at_s": time.time()})
    kv_put(_key(tier), report.encode(), namespace=NAMESPACE)
    stored = kv_get(_key(tier.other), namespace=NAMESPACE)
    return None if stored is None else believed(json.loads(stored), time.time())


def believed(reported: dict[str, Any], now_s: float) -> int | None:
    """The limit that the other tier has reported, unless it was too long ago."""
    return reported["max_new_tokens"] if now_s - reported["at_s"] < BELIEVED_S else None


def _key(tier: Tier) -> bytes:
    return b"limits-" + tier.value.encode()
