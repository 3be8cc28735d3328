"""Who asks, and for how much: the key that a request carries, and what it holds of the key's quota.

The key is looked for before anything else of a request is read, so that a wrong one costs a hash.
Engine, logs and metrics get the key's name only. At its end a request is settled:

| the request | is settled as |
|---|---|
| was refused, or ended before an engine had it | nothing: all of it comes back |
| was answered from the cache | one request, no tokens |
| ran here, to its end or not | one request, its prompt, and what was generated |
| ran at another replica | the same, as that one says behind its answer |
| ran at another replica that was lost, or whose client left | all that was reserved |
| went on here after another replica had begun it | what was generated here, and no request |
| went on here after that one has died with it | nothing: all that was reserved there is spent |
"""

import json
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from starlette.types import Scope

from serve_app.api.limit_headers import limit_headers
from serve_app.api.request_context import RequestContext, header
from serve_app.api.routes import Callers
from serve_app.core.access.access_key import AccessKey, Priority
from serve_app.core.access.caller import NOBODY, Caller
from serve_app.core.access.lease import NOTHING, Amounts, KeyBalance, Refusal, Usage, UsageLabels
from serve_app.core.access.quota import utc_day
from serve_app.core.admission.fairness import ANONYMOUS, Flow
from serve_app.core.generation import Generation
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError

# Of the scope: the `Caller` whose request it is.
CALLER = "tierserve.caller"
# What a key begins with; other credentials are not this service's.
KEY_PREFIX = b"ts-"
MOST_KEY_BYTES = 256
_BEARER = b"bearer "
# Of a ledger that is away, or of keys that have not been read yet.
RETRY_LEDGER_S = 2
# The openai and anthropic SDKs heed no longer Retry-After: they would retry within seconds.
LONGEST_RETRY_S = 60
# What a replica says to the one that has forwarded a request: a header of a whole answer, a comment
# at the end of a stream.
USAGE_HEADER = b"x-tierserve-usage"
USAGE_COMMENT = b": tierserve-usage "
# What a chat template and its markers put around the text of a request, at most.
TEMPLATE_TOKENS = 128
# Of a kept answer, which takes no tokens.
ONE_REQUEST = Amounts(requests=1, concurrent=1)
_LIMIT_NAMES = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "tokens_per_day": "tokens a day (UTC)",
    "max_concurrent": "requests at once",
}


class QuotaExceededError(Exception):
    """A key has not enough left of a limit."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.limit)
        self.refusal = refusal


class LedgerLostError(Exception):
    """The ledger does not answer, and what is leased here does not do. `is_taken`: its database is
    another service's."""

    def __init__(self, why: str = "", *, is_taken: bool = False) -> None:
        super().__init__(why)
        self.is_taken = is_taken


class KeyDirectory(Protocol):
    """The valid keys as they were at most two seconds ago."""

    @property
    def loaded(self) -> bool:
        """Whether they have been read at all."""
        ...

    def find(self, presented: bytes) -> AccessKey | None:
        """The key that is presented and has not expired, in the same time whether there is one or
        not."""
        ...


class Grant(Protocol):
    """What one request holds of its key's quota."""

    def lower(self, tokens: int) -> None:
        """It needs no more than so many tokens in all."""
        ...

    async def acknowledged(self) -> None:
        """Until the ledger knows of it, or is lost."""
        ...

    def settle(self, used: Usage | None) -> None:
        """The request has ended; None: it used nothing."""
        ...


@dataclass(slots=True)
class Spending:
    """`reserved` is the most that the request may use."""

    reserved: Amounts = field(default_factory=Amounts)
    grant: Grant | None = None
    _run: Callable[[], Usage | None] = lambda: None

    def answered_from_cache(self) -> None:
        self._run = lambda: Usage(requests=1)

    def runs_here(self, generation: Generation, gpu_s: Callable[[], float]) -> None:
        """This replica's engine gets it; `gpu_s` says what it has taken of the GPU so far."""
        self._run = lambda: usage_of(generation, gpu_s())

    def goes_on_here(
        self, generation: Generation, gpu_s: Callable[[], float], before: Callable[[], Usage]
    ) -> None:
        """The same for one that others have begun: `before` says what they have made of it."""

        def made() -> Usage | None:
            usage = usage_of(generation, gpu_s())
            return None if usage is None else usage.since(before())

        self._run = made

    def runs_elsewhere(self) -> None:
        """Another replica has taken it: until that one says what it used, it is all of it."""
        self._run = lambda: Usage(requests=1, answer_tokens=self.reserved.tokens)

    def said_elsewhere(self, written: bytes) -> None:
        """What `written_usage` wrote at the replica that ran it."""
        usage = read_usage(written)
        if usage is not None:
            self._run = lambda: usage

    def used(self) -> Usage | None:
        """As far as it is known now; None: nothing."""
        return self._run()

    async def acknowledged(self) -> None:
        """Wait with the first byte until what the request may use is known elsewhere."""
        if self.grant is not None:
            await self.grant.acknowledged()

    def prompt_counted(self, prompt_tokens: int, new_tokens: int) -> None:
        """The engine has counted the only prompt, and gives so many tokens at most."""
        if self.grant is not None:
            self.grant.lower(prompt_tokens + new_tokens)


class Quotas(Protocol):
    """What is left of the keys' limits."""

    async def reserve(self, key: AccessKey, need: Amounts, followed: str = "") -> Grant:
        """Hold so much for a request; `followed` is the id of one whose stream may go on elsewhere.
        Raises QuotaExceededError and LedgerLostError."""
        ...

    async def take_over(self, key: AccessKey, need: Amounts, followed: str) -> Grant:
        """The same for the rest of a stream whose replica was lost, and which goes on here: it is
        paid for once. Raises as `reserve`."""
        ...

    def balance(self, key: AccessKey) -> KeyBalance | None:
        """None until the ledger has said."""
        ...

    def count(self, labels: UsageLabels, usage: Usage) -> None:
        """A request has ended."""
        ...


@dataclass(slots=True)
class AccessDesk:
    """`keys` None: whoever reaches the port is served, without a limit. `quotas` None, as in web:
    requests are counted elsewhere. `now_s` gives the Unix time."""

    keys: KeyDirectory | None = None
    quotas: Quotas | None = None
    allow_anonymous: bool = False
    tier: Tier | None = None
    model: str = ""
    now_s: Callable[[], float] = time.time
    # Told why a key was refused: `missing`, `unknown`, `tier`, `no_admin`.
    on_refused: Callable[[str], None] = lambda _: None

    def caller_of(self, scope: Scope, callers: Callers) -> Caller:
        """Whoever sends this request to a route that is for `callers`. Raises RequestError 401, 403
        and 503."""
        if self.keys is None or callers is Callers.ANYONE:
            return NOBODY
        presented = presented_key(scope)
        if presented is None:
            if self.allow_anonymous and callers is Callers.USERS:
                return NOBODY
            raise self._refuse("missing", _MISSING)
        if not self.keys.loaded:
            raise ledger_away("The API keys cannot be read at the moment.")
        key = self.keys.find(presented)
        if key is None:
            raise self._refuse("unknown", _UNKNOWN)
        if callers is Callers.OPERATORS and not key.admin:
            self.on_refused("no_admin")
            raise RequestError(
                403,
                "This is for operators: it takes an admin key (`tierserve keys add NAME --admin`), "
                "or the status listener.",
                code="admin_key_required",
            )
        if self.tier is not None and self.tier not in key.tiers:
            self.on_refused("tier")
            allowed = ", ".join(sorted(key.tiers)) or "none"
            raise RequestError(
                403,
                f"This API key may not use the {self.tier} tier. It may use: {allowed}.",
                code="tier_not_allowed",
            )
        return Caller(key, Flow(key.name, key.weight, key.priority))

    @asynccontextmanager
    async def reserved(
        self, caller: Caller, need: Amounts, followed: str = "", *, is_lost: bool = False
    ) -> AsyncIterator[Spending]:
        """Hold `need` of the caller's quota while the block runs; whatever way it ends, what was
        used is settled and the rest comes back. `followed`: the id of a request whose stream may go
        on elsewhere; `is_lost`: it goes on here, after its replica was lost. Raises RequestError
        429 and 503."""
        key, spending = caller.key, Spending(need)
        if key is None or self.quotas is None:
            yield spending
            return
        try:
            if not key.limits.unlimited and need != NOTHING:
                reserve = self.quotas.take_over if is_lost else self.quotas.reserve
                spending.grant = await reserve(key, need, followed)
        except QuotaExceededError as over:
            # The rest of a stream that another replica has is no request, and goes on there.
            self.quotas.count(self._labels(key), Usage(refused=min(1, need.requests)))
            raise over_quota(key, over.refusal) from over
        except LedgerLostError as lost:
            raise ledger_away("The ledger of quotas does not answer.") from lost
        try:
            yield spending
        except RequestError as error:
            if error.status == 429:
                self.quotas.count(self._labels(key), Usage(refused=1))
            raise
        finally:
            used = spending.used()
            if spending.grant is not None:
                spending.grant.settle(used)
            if used is not None:
                self.quotas.count(self._labels(key), used)

    def count_refused(self, caller: Caller) -> None:
        """Its tier was full, which was known before a quota was looked at."""
        if caller.key is not None and self.quotas is not None:
            self.quotas.count(self._labels(caller.key), Usage(refused=1))

    def headers(self, caller: Caller, *, anthropic: bool) -> list[tuple[bytes, bytes]]:
        """`x-ratelimit-*` as they are now, of a key that has limits."""
        key = caller.key
        if key is None or self.quotas is None or key.limits.unlimited:
            return []
        return limit_headers(
            key.limits, self.quotas.balance(key), self.now_s(), anthropic=anthropic
        )

    def _labels(self, key: AccessKey) -> UsageLabels:
        assert self.tier is not None
        return UsageLabels(key.name, self.tier, self.model, utc_day(self.now_s()))

    def _refuse(self, reason: str, message: str) -> RequestError:
        self.on_refused(reason)
        return RequestError(401, message, code="invalid_api_key")


_HOW = "Send it as `Authorization: Bearer <key>` or as `x-api-key: <key>`."
_MISSING = f"You did not send an API key. {_HOW}"
_UNKNOWN = f"This API key is not valid here: it is mistyped, has expired or was revoked. {_HOW}"


def presented_key(scope: Scope) -> bytes | None:
    """What the request authenticates with. Of several credentials the one that looks like a key of
    this service, since clients send placeholders beside it; else the first. None without any."""
    given: list[bytes] = []
    bearer = header(scope, b"authorization") or b""
    if bearer[: len(_BEARER)].lower() == _BEARER:
        given.append(bearer[len(_BEARER) :].strip())
    elif bearer:
        given.append(bearer)
    if api_key := header(scope, b"x-api-key"):
        given.append(api_key.strip())
    likely = (one for one in given if one.startswith(KEY_PREFIX))
    presented = next(likely, given[0] if given else None)
    return presented[:MOST_KEY_BYTES] if presented else None


def over_quota(key: AccessKey, refusal: Refusal) -> RequestError:
    """The 429 of a key without enough left. An SDK that would retry within seconds, in vain, is
    told not to."""
    limit = _LIMIT_NAMES.get(refusal.limit, refusal.limit)
    code = "insufficient_quota" if refusal.limit == "tokens_per_day" else "rate_limit_exceeded"
    after_s = None if refusal.retry_after_s is None else max(1, -int(-refusal.retry_after_s // 1))
    if after_s is None:
        what = "This request alone is larger: ask for fewer tokens (`max_tokens`)."
    else:
        what = f"Retry in {after_s} s, or ask for fewer tokens (`max_tokens`)."
        if refusal.limit in ("requests_per_minute", "max_concurrent"):
            what = f"Retry in {after_s} s."
    return RequestError(
        429,
        f"The API key `{key.name}` has not enough left of its {refusal.allowed:,} {limit}. {what}",
        code=code,
        retry_after_s=after_s,
        retryable=after_s is not None and after_s <= LONGEST_RETRY_S,
    )


def ledger_away(what: str) -> RequestError:
    """The 503 while nobody knows what a key may use."""
    return RequestError(
        503, f"{what} Please retry.", code="ledger_unavailable", retry_after_s=RETRY_LEDGER_S
    )


def written_flow(flow: Flow) -> bytes:
    """The value of the header that has for another replica whose request it is."""
    return json.dumps([flow.name, flow.weight, flow.priority.value]).encode()


def read_flow(value: bytes | None) -> Flow:
    """What `written_flow` wrote; the flow of a replica of another version is nobody's."""
    if value is None:
        return ANONYMOUS
    try:
        name, weight, priority = json.loads(value)
        return Flow(str(name), float(weight), Priority(priority))
    except (ValueError, TypeError):
        return ANONYMOUS


def usage_of(generation: Generation, gpu_s: float) -> Usage | None:
    """What an engine has done for a request; None where it never got its prompt."""
    if not generation.prompt_tokens:
        return None
    sequences = [*generation.sequences.values(), *generation.unseen]
    made = sum(sequence.tokens for sequence in sequences)
    reasoning = sum(
        sequence.thought.tokens for sequence in sequences if sequence.thought is not None
    )
    return Usage(
        requests=1,
        prompt_tokens=generation.prompt_tokens,
        reasoning_tokens=min(reasoning, made),
        answer_tokens=max(0, made - reasoning),
        gpu_s=gpu_s,
    )


def need_of(context: RequestContext, context_tokens: int | None) -> Amounts:
    """The most that it uses of its caller's quota; of one that another replica has begun, the rest:
    that one settles its part itself, if it lives."""
    prepared, resumption = context.prepared, context.resumption
    if resumption is not None:
        return Amounts(tokens=max(0, prepared.most_new_tokens - context.past_tokens))
    sequences, new_tokens = prepared.sequences, prepared.max_new_tokens
    tokens = most_tokens(
        len(context.body),
        sequences=sequences,
        max_new_tokens=new_tokens,
        context_tokens=context_tokens,
    )
    beside = prepared.most_new_tokens - sequences * new_tokens
    return Amounts(requests=1, tokens=tokens + beside, concurrent=1)


def most_tokens(
    body_bytes: int, *, sequences: int, max_new_tokens: int, context_tokens: int | None
) -> int:
    """No request of this length uses more: a token is a byte at least, and what a template adds to
    a message is shorter than the JSON around it; nothing is longer than the context."""
    tokens = body_bytes + TEMPLATE_TOKENS + sequences * max_new_tokens
    return tokens if context_tokens is None else min(tokens, sequences * context_tokens)


def written_usage(usage: Usage | None) -> bytes:
    """For the replica that has forwarded a request."""
    usage = usage or Usage()
    tokens = (usage.requests, usage.prompt_tokens, usage.reasoning_tokens, usage.answer_tokens)
    return b"%d,%d,%d,%d,%.6f" % (*tokens, usage.gpu_s)


def read_usage(written: bytes) -> Usage | None:
    """None for what is no usage."""
    try:
        requests, prompt, reasoning, answer, gpu_s = written.split(b",")
        seconds = float(gpu_s)
        if not math.isfinite(seconds):
            return None
        return Usage(int(requests), 0, int(prompt), int(reasoning), int(answer), seconds)
    except ValueError:
        return None
