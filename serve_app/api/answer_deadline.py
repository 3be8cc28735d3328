"""The deadline of a request at its edge: what its client asks for, how others mark what is left of
it, and its end (docs/deadlines.md).

A deadline counts from a request's arrival at this service. Whoever forwards a request, the gateway
or a replica, marks it with the time that is left: clocks of two machines are never compared.
"""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from starlette.types import Scope

from serve_app.api.replay_wire import said_by, signed
from serve_app.api.token_budget import require_natural
from serve_app.config.answers import LimitsConfig
from serve_app.errors import RequestError, invalid

DEADLINE_FIELD = "deadline_ms"
DEADLINE_HEADER = b"x-deadline-ms"
# What is left of it, from the gateway or another replica: `<keyed hash> <left_ms> <deadline_ms>`.
TIME_LEFT_HEADER = b"x-tierserve-time-left"
# Of all tiers.
MOST_DEADLINE_MS = 86_400_000
_NUMBER = re.compile(rb"[0-9]{1,12}")
# What an engine that stands still, or an answer that nobody can cut, gets beyond the deadline
# before the request ends with an error; and what a replica gets for that of whoever forwarded it.
GRACE_S, FORWARDED_GRACE_S = 0.5, 1.5


@dataclass(frozen=True, slots=True)
class AnswerDeadline:
    """`deadline_ms` as the client has written it, and when that is by this process's clock."""

    deadline_ms: int
    due_s: float
    clock_s: Callable[[], float]

    @property
    def left_s(self) -> float:
        return self.due_s - self.clock_s()

    def mark(self, key: bytes, request_id: str) -> str:
        """The value of TIME_LEFT_HEADER on a request that is forwarded now."""
        left_ms = max(0, math.floor(self.left_s * 1e3))
        said = f"{left_ms} {self.deadline_ms}"
        return signed(key, f"deadline {request_id}", said)

    @classmethod
    def from_mark(
        cls, value: bytes, key: bytes, request_id: str, clock_s: Callable[[], float]
    ) -> Self | None:
        """Of a request that comes now. None where nobody who has the key has written it."""
        said = said_by(value, key, f"deadline {request_id}")
        if said is None:
            return None
        left_ms, deadline_ms = map(int, said.split(" "))
        return cls(deadline_ms, clock_s() + left_ms / 1e3, clock_s)


def asked_deadline_ms(payload: Mapping[str, Any], scope: Scope) -> int | None:
    """What the client asks for, in its body, in a header, or twice the same. Raises RequestError
    400 for what is no whole number of milliseconds above 0."""
    values: list[int] = []
    asked = payload.get(DEADLINE_FIELD)
    if asked is not None:
        require_natural(DEADLINE_FIELD, asked)
        values.append(asked)
    for name, value in scope["headers"]:
        if name.lower() != DEADLINE_HEADER:
            continue
        if _NUMBER.fullmatch(value) is None:
            raise invalid(
                "`x-deadline-ms` must be a whole number of milliseconds.",
                param=DEADLINE_HEADER.decode(),
                code="invalid_type",
            )
        values.append(int(value))
    if not values:
        return None
    if len(set(values)) > 1:
        raise invalid(
            "`deadline_ms` and the header `x-deadline-ms` say different things; send one.",
            param=DEADLINE_FIELD,
            code="conflicting_deadlines",
        )
    if values[0] == 0:
        raise invalid("`deadline_ms` must be above 0.", param=DEADLINE_FIELD)
    return values[0]


def take_deadline(
    payload: dict[str, Any],
    scope: Scope,
    limits: LimitsConfig,
    *,
    arrived_s: float,
    clock_s: Callable[[], float],
    marked: AnswerDeadline | None,
    forwarded_here: bool,
) -> AnswerDeadline | None:
    """A request's deadline, which is taken out of its body; `marked`: as whoever forwarded it has
    it, and another replica has seen to its bounds. Raises RequestError 400."""
    asked_ms = asked_deadline_ms(payload, scope)
    payload.pop(DEADLINE_FIELD, None)
    if marked is not None and forwarded_here:
        return marked
    if asked_ms is None:
        return marked
    least_ms, most_ms = limits.least_deadline_ms, limits.most_deadline_ms
    if not least_ms <= asked_ms <= most_ms:
        raise invalid(
            f"`{DEADLINE_FIELD}` must be from {least_ms} to {most_ms} milliseconds.",
            param=DEADLINE_FIELD,
            code="deadline_out_of_bounds",
        )
    return marked or AnswerDeadline(asked_ms, arrived_s + asked_ms / 1e3, clock_s)


def deadline_exceeded(deadline: AnswerDeadline, what: str) -> RequestError:
    """The 504 of a request whose answer cannot be in time any more; to retry it by itself would
    only be later."""
    return RequestError(
        504,
        f"The deadline of {deadline.deadline_ms} ms {what}. Ask again with more time, or when the "
        "tier is less busy.",
        param=DEADLINE_FIELD,
        code="deadline_exceeded",
        retryable=False,
    )


@asynccontextmanager
async def ended_by(
    deadline: AnswerDeadline | None, grace_s: float = GRACE_S
) -> AsyncIterator[None]:
    """Raises RequestError 504 in the block where it goes on beyond the deadline."""
    if deadline is None:
        yield
        return
    over = asyncio.timeout(max(0.0, deadline.left_s) + grace_s)
    try:
        async with over:
            yield
    except TimeoutError as error:
        if not over.expired():
            raise
        raise deadline_exceeded(deadline, "is over, and its answer has not ended") from error
