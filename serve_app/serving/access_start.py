"""What a replica needs of keys and quotas before it answers: the ledger's address, the pepper and
the keys."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import ray

from serve_app.access.credentials import Pepper
from serve_app.api.access import AccessDesk, LedgerLostError
from serve_app.config.access import AccessConfig
from serve_app.core.access.lease_book import LeaseBook
from serve_app.core.tiers import Tier
from serve_app.serving.lease_holder import LeaseHolder
from serve_app.serving.ledger_actor import PROCESS_SEPARATOR, LedgerLink

log = logging.getLogger(__name__)

# The ledger's own process starts within seconds; its database may take longer to be reached.
START_LIMIT_S = 60.0
KEYS_LIMIT_S = 10.0
# Another service has the database.
TAKEN_LIMIT_S = 15.0
RETRY_S = 0.5


@dataclass(slots=True)
class StartedAccess:
    """`holder` and `link` are None where keys are off; `reporting` belongs to whoever holds it."""

    desk: AccessDesk
    holder: LeaseHolder | None = None
    link: LedgerLink | None = None
    reporting: asyncio.Task[None] | None = None


async def start_access(
    config: AccessConfig,
    tier: Tier | None = None,
    model: str = "",
    on_refused: Callable[[str], None] = lambda _: None,
) -> StartedAccess:
    """Raises RuntimeError where the ledger does not start; `tier` None is web, which knows the keys
    and holds no quota."""
    if config.database is None:
        return StartedAccess(AccessDesk())
    link = LedgerLink(config.database, config.service)
    pepper = await _pepper(link)
    holder = LeaseHolder(LeaseBook(_process_name()), link.report, pepper, config)
    reporting = asyncio.create_task(holder.run())
    if not await holder.until_loaded(KEYS_LIMIT_S):
        log.warning("the keys have not been read yet", extra={"phase": "start"})
    desk = AccessDesk(
        holder,
        None if tier is None else holder,
        allow_anonymous=config.allow_anonymous,
        tier=tier,
        model=model,
        on_refused=on_refused,
    )
    return StartedAccess(desk, holder, link, reporting)


async def _pepper(link: LedgerLink) -> Pepper:
    began_s = time.monotonic()
    deadline_s = began_s + START_LIMIT_S
    while True:
        try:
            return await link.pepper()
        except LedgerLostError as error:
            if error.is_taken:
                # That service may be one that is being stopped.
                deadline_s = min(deadline_s, began_s + TAKEN_LIMIT_S)
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"The ledger of keys does not start: {error}") from error
            await asyncio.sleep(RETRY_S)


def _process_name() -> str:
    """Of this process alone, and of its actor, by which the ledger asks Ray for it."""
    actor = ray.get_runtime_context().get_actor_name() or "nobody"
    return f"{actor}{PROCESS_SEPARATOR}{uuid.uuid4().hex[:12]}"
