"""Requests that a tier runs for the other one: their mark, and what the lender does to them.

A borrowed request has passed the rules of its own tier, so the lender applies none of its own. The
mark therefore carries a key that the other tier's replicas have from the lender over Ray and never
over HTTP: a client that writes the header itself is refused, and gains nothing.
"""

import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from starlette.types import Scope

from serve_app.api.request_context import header
from serve_app.api.routes import Endpoint
from serve_app.api.rules import PreparedRequest, count_sequences
from serve_app.api.structures import binding_field
from serve_app.core.reasoning.answer_policy import PolicyPlan, read_policy
from serve_app.core.reasoning.budget import ThinkingPlan
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError

BORROWED_HEADER = b"x-tierserve-borrowed-by"
# What the borrower's rules have decided and its body does not say.
PLAN_HEADER = b"x-tierserve-plan"
# Not the engine's answers: full, being stopped, not its borrower, or a body above its limit. The
# replica that asked keeps the request.
NOT_TAKEN = frozenset({403, 413, 429, 503})


@dataclass(frozen=True, slots=True)
class Lender:
    """A replica of another tier that serves the same model. `url` is the base URL of its port."""

    tier: Tier
    url: str
    key: str

    def mark(self, borrower: Tier) -> str:
        """The value of the header that makes a request a borrowed one."""
        return f"{borrower} {self.key}"


@dataclass(frozen=True, slots=True)
class LendingDesk:
    """The lender's side. `key` is new in each process."""

    tier: Tier
    key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    def borrower_of(self, scope: Scope) -> Tier | None:
        """The tier that the request belongs to; None for one of its own. Raises RequestError 403
        for a mark that is not its own."""
        mark = header(scope, BORROWED_HEADER)
        if mark is None:
            return None
        for borrower in Tier:
            own = Lender(self.tier, "", self.key).mark(borrower).encode()
            if borrower is not self.tier and hmac.compare_digest(mark, own):
                return borrower
        raise RequestError(
            403, "Only the replicas of another tier borrow here.", code="borrowing_forbidden"
        )

    def prepare(
        self,
        scope: Scope,
        payload: dict[str, Any],
        endpoint: Endpoint,
        borrower: Tier,
        most_new_tokens: int,
    ) -> PreparedRequest:
        """A borrowed request as the lender's engine takes it: only `model` changes."""
        if payload.get("model") == self.tier.value:
            # No model of the borrower's: its own engine is to say so.
            raise no_capacity("The request names the lender's tier.")
        if payload.get("model") == borrower.value:
            payload["model"] = self.tier.value
        plan, stop_repetition, policy = _read_plan(header(scope, PLAN_HEADER))
        return PreparedRequest(
            payload,
            max(count_sequences(payload, endpoint), 1 if policy is None else policy.samples),
            _new_tokens(payload, endpoint, most_new_tokens),
            payload.get("stream") is True,
            plan,
            stop_repetition,
            structure_field=binding_field(payload, endpoint.name),
            policy=policy,
        )


def written_plan(prepared: PreparedRequest) -> str:
    """The value of the header that has for a lender what its own rules would have decided."""
    plan = None if prepared.plan is None else asdict(prepared.plan)
    policy = None if prepared.policy is None else asdict(prepared.policy)
    written = {"plan": plan, "stop_repetition": prepared.stop_repetition, "policy": policy}
    return json.dumps(written)


def _read_plan(value: bytes | None) -> tuple[ThinkingPlan | None, bool, PolicyPlan | None]:
    if value is None:
        return None, False, None
    written = json.loads(value)
    try:
        plan = None if written["plan"] is None else ThinkingPlan(**written["plan"])
        policy = None if written["policy"] is None else read_policy(written["policy"])
    except (TypeError, KeyError, ValueError) as error:
        raise no_capacity("The borrower is of another version.") from error
    return plan, written["stop_repetition"], policy


def no_capacity(message: str) -> RequestError:
    """The refusal of a request that another replica has forwarded; it stays in the queue there."""
    return RequestError(429, message, code="relay_no_room")


def _new_tokens(payload: Mapping[str, Any], endpoint: Endpoint, most: int) -> int:
    limits = (payload.get(name) for name in endpoint.limit_fields)
    return min((limit for limit in limits if isinstance(limit, int)), default=most)
