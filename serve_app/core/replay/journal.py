"""The journal of a generation: each step that the engine has taken for it, in their order.

A replica sends its steps along with what they have become for the client. Whoever continues the
generation elsewhere gives them back: the request is then run anew from its first step, with the
journal in the engine's place until its end, so that all that follows the engine (reasoning, tool
calls, JSON, stop strings, usage) is in the state in which it was.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from serve_app.core.replay.order import ReplayOrder

_BETWEEN_STEPS, _BETWEEN_PARTS, _BETWEEN_IDS = ";", " ", ","
# Behind the index, before each number of tokens of the prompt.
_BEFORE_TOKENS = "+"
# Behind the ids: what stands before log probabilities, between those of two tokens, between two
# candidates of a token, and inside of one.
_BEFORE_LOGPROBS, _BETWEEN_TOKENS, _BETWEEN_CANDIDATES, _IN_CANDIDATE = "~", "|", "/", ":"
# As vLLM's handlers write it where there is none.
LEAST_LOGPROB = -9999.0


# Of one token: its own, then those of the other candidates, each with the candidate's id.
TokenLogprobs = tuple[tuple[int, float], ...]


class JournalError(ValueError):
    """A text that is no journal."""


@dataclass(frozen=True, slots=True)
class EngineStep:
    """What one result of the engine added to one sequence.

    `call` is the number of the engine's call for the request (`Journal.number_calls`); `index` is
    the sequence's within that call. `finish_reason` and `stop_reason` are the engine's own, and
    None but at a sequence's last step. `cached_tokens` are those of the prompt that the engine
    found in its prefix cache, and `cache_written_tokens` those that it put there, at a sequence's
    first step. `logprobs`, where they were asked for, are of each token.
    """

    call: int
    index: int
    token_ids: tuple[int, ...]
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    cached_tokens: int = 0
    cache_written_tokens: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()


def written(steps: Sequence[EngineStep]) -> str:
    """One line of ASCII, without a line break; the empty text for no steps."""
    return _BETWEEN_STEPS.join(_written_step(step) for step in steps)


def read(text: str) -> tuple[EngineStep, ...]:
    """What `written` has written. Raises JournalError for anything else."""
    if not text:
        return ()
    try:
        return tuple(_read_step(part) for part in text.split(_BETWEEN_STEPS))
    except (ValueError, IndexError) as error:
        raise JournalError(f"no journal: {text[:80]!r}") from error


# No engine's: the request's reasoning was left out for lack of time, and whoever goes on with it
# leaves it out too.
DIRECT = EngineStep(-1, 0, ())


@dataclass(slots=True)
class Journal:
    """Of one request on one replica. `past` is what other replicas have done for it; `direct` says
    that its reasoning was left out.

    `record` is called for each step of this replica's engine, and not for those of `past`.
    """

    past: tuple[EngineStep, ...] = ()
    _unsent: list[EngineStep] = field(default_factory=list[EngineStep])
    on_step: Callable[[], None] = lambda: None
    order: ReplayOrder = field(init=False)
    direct: bool = field(init=False)
    _calls: int = 0

    def __post_init__(self) -> None:
        self.direct = DIRECT in self.past
        self.past = tuple(step for step in self.past if step != DIRECT)
        self.order = ReplayOrder(len(self.past))

    def number_calls(self, calls: int) -> int:
        """The first of as many numbers of the engine's calls, from 0. Each prompt takes those that
        it may need when it begins, so that a call has the same number on each replica, whichever
        prompt's next call comes first there."""
        first, self._calls = self._calls, self._calls + calls
        return first

    def leave_reasoning_out(self) -> None:
        """Before the engine has taken a step for it."""
        self.direct = True
        self._unsent.append(DIRECT)

    def record(self, step: EngineStep) -> None:
        self._unsent.append(step)
        self.on_step()

    def take_unsent(self) -> str:
        """The steps since the last call, as `written` writes them."""
        text = written(self._unsent)
        self._unsent.clear()
        return text

    def past_of(self, call: int) -> Iterator[tuple[int, EngineStep]]:
        """What is to be replayed in the place of an engine's call, with its position in all of the
        past."""
        return ((at, step) for at, step in enumerate(self.past) if step.call == call)


def _written_step(step: EngineStep) -> str:
    index = str(step.index)
    if step.cached_tokens or step.cache_written_tokens:
        prompt = (index, str(step.cached_tokens), str(step.cache_written_tokens))
        index = _BEFORE_TOKENS.join(prompt)
    ids = _BETWEEN_IDS.join(map(str, step.token_ids))
    if step.logprobs:
        ids += _BEFORE_LOGPROBS + _BETWEEN_TOKENS.join(map(_written_logprobs, step.logprobs))
    parts = [str(step.call), index, ids]
    if step.finish_reason is not None:
        parts.append(step.finish_reason)
        # Last, for a stop string may hold what stands between parts.
        reason = json.dumps(step.stop_reason)
        parts.append(reason.replace(_BETWEEN_STEPS, "\\u003b"))
    return _BETWEEN_PARTS.join(parts)


def _read_step(text: str) -> EngineStep:
    parts = text.split(_BETWEEN_PARTS, 4)
    index, *of_prompt = map(int, parts[1].split(_BEFORE_TOKENS))
    cached_tokens, cache_written_tokens = of_prompt or (0, 0)
    ids, _, logprobs = parts[2].partition(_BEFORE_LOGPROBS)
    step = EngineStep(
        int(parts[0]),
        index,
        tuple(map(int, ids.split(_BETWEEN_IDS))) if ids else (),
        cached_tokens=cached_tokens,
        cache_written_tokens=cache_written_tokens,
        logprobs=tuple(map(_read_logprobs, logprobs.split(_BETWEEN_TOKENS))) if logprobs else (),
    )
    if len(parts) == 3:
        return step
    return replace(step, finish_reason=parts[3], stop_reason=json.loads(parts[4]))


def _written_logprobs(of_token: TokenLogprobs) -> str:
    return _BETWEEN_CANDIDATES.join(
        f"{token}{_IN_CANDIDATE}{max(logprob, LEAST_LOGPROB):.7g}" for token, logprob in of_token
    )


def _read_logprobs(text: str) -> TokenLogprobs:
    pairs = (candidate.split(_IN_CANDIDATE) for candidate in text.split(_BETWEEN_CANDIDATES))
    return tuple((int(token), float(logprob)) for token, logprob in pairs)
