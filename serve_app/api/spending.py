"""What one request uses of its key's quota, from its reservation to what is settled at its end.

| the request | is settled as |
|---|---|
| was refused, or ended before an engine had it | nothing: all of it comes back |
| was answered from the cache | one request, no tokens |
| ran here, to its end or not | one request, its prompt, and what was generated |
| ran at another replica | the same, as that one says behind its answer |
| ran at another replica that was lost, or whose client left | all that was reserved |
| went on here after another replica had begun it | what was generated here, and no request |
| went on here after that one was lost | nothing: all that was reserved there is spent |
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from serve_app.core.access.lease import NOTHING, Amounts, Usage
from serve_app.core.generation import Generation

if TYPE_CHECKING:
    from serve_app.api.request_context import RequestContext

# What a replica says to the one that has forwarded a request: a header of a whole answer, a comment
# at the end of a stream.
USAGE_HEADER = b"x-tierserve-usage"
USAGE_COMMENT = b": tierserve-usage "
# What a chat template and its markers put around the text of a request, at most.
TEMPLATE_TOKENS = 128
# Of a kept answer, which takes no tokens.
ONE_REQUEST = Amounts(requests=1, concurrent=1)


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


def need_of(context: "RequestContext", context_tokens: int | None) -> Amounts:
    """The most that it uses of its caller's quota. What a lost replica had reserved for it is
    spent, and is for whoever goes on with it; a living one settles its part itself."""
    prepared, resumption = context.prepared, context.resumption
    if resumption is not None and not resumption.only_with_room:
        return NOTHING
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
