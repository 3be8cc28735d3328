"""The other tier's replicas that lend slots to this one: who they are, and their keys.

Asked over Ray, where a client has no access, at most once a second and only while something waits.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.api.lending import Lender
from serve_app.core.admission.slot_lending import AnswerForm, stands_in_for
from serve_app.core.tiers import Tier
from serve_app.serving.running_tier import RunningTier
from serve_app.serving.topology import REFRESH_S, replica_addresses

ASK_LIMIT_S = 5.0
# How long a request waits for the answer, which it may do without.
WAIT_LIMIT_S = 0.3


def lending_terms(tier: RunningTier) -> dict[str, Any] | None:
    """What a borrower needs to know of this replica; None where it lends nothing."""
    if not tier.edge.settings.admission.lend_share:
        return None
    return {
        "replica": serve.get_replica_context().replica_tag,
        "key": tier.edge.reader.desk.key,
        "form": asdict(answer_form(tier)),
    }


def answer_form(tier: RunningTier) -> AnswerForm:
    """What the answers of this tier's engine look like."""
    shaping = tier.args.engine.model_dump(
        include={
            "quantization",
            "tool_call_parser",
            "tool_strict_level",
            "reasoning_parser",
            "chat_template",
            "extra_args",
        }
    )
    parsers = ", ".join(f"{name}={value}" for name, value in sorted(shaping.items()))
    return AnswerForm(tier.args.model, tier.engine.max_model_len, f"{tier.engine.name}: {parsers}")


@dataclass(slots=True)
class Lenders:
    """The lenders to a tier, at most 1 s old. `form` is what its own answers look like."""

    tier: Tier
    form: AnswerForm | None = None
    _known: Sequence[Lender] = field(default_factory=tuple)
    _read_s: float = float("-inf")
    _reading: asyncio.Task[None] | None = None
    _handle: DeploymentHandle | None = None

    async def __call__(self) -> Sequence[Lender]:
        if self._reading is None and time.monotonic() - self._read_s > REFRESH_S:
            self._reading = asyncio.create_task(self._read())
        if self._reading is not None:
            # Shared: a burst finds the lenders with its first request. It goes on for the next one.
            await asyncio.wait({self._reading}, timeout=WAIT_LIMIT_S)
        return self._known

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(ASK_LIMIT_S):
                self._known = await self._ask(self.form) if self.form else ()
        # Not deployed, without replicas, or too busy to answer: it lends nothing now.
        except (RayServeException, RayError, TimeoutError):
            self._known = ()
        finally:
            self._read_s, self._reading = time.monotonic(), None

    async def _ask(self, form: AnswerForm) -> Sequence[Lender]:
        addresses = await replica_addresses(self.tier.other.value)
        if not addresses:
            return ()
        if self._handle is None:
            self._handle = await asyncio.to_thread(serve.get_app_handle, self.tier.other.value)
        asked = self._handle.broadcast("lending_terms")
        answers = await asked.results_async(timeout_s=ASK_LIMIT_S, return_exceptions=True)
        return [
            Lender(self.tier.other, addresses[terms["replica"]], terms["key"])
            for terms in answers
            if isinstance(terms, dict)
            and terms["replica"] in addresses
            and stands_in_for(AnswerForm(**terms["form"]), form)
        ]
