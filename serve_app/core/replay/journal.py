"""The journal of a generation: each step that the engine has taken for it, in their order.

A replica sends its steps along with what they have become for the client. Whoever continues the
generation elsewhere gives them back: the request is then run anew from its first step, with the
journal in the engine's place until its end, so that all that follows the engine (reasoning, tool
calls, JSON, stop strings, usage) is in the state in which it was.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

_BETWEEN_STEPS, _BETWEEN_PARTS, _BETWEEN_IDS = ";", " ", ","


class JournalError(ValueError):
    """A text that is no journal."""


@dataclass(frozen=True, slots=True)
class EngineStep:
    """What one result of the engine added to one sequence.

    `call` counts the engine's calls for the request in the order in which they were made, from 0;
    `index` is the sequence's within that call. `finish_reason` and `stop_reason` are the engine's
    own, and None but at a sequence's last step.
    """

    call: int
    index: int
    token_ids: tuple[int, ...]
    finish_reason: str | None = None
    stop_reason: int | str | None = None


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


@dataclass(slots=True)
class Journal:
    """Of one request on one replica. `past` is what other replicas have done for it.

    `record` is called for each step of this replica's engine, and not for those of `past`.
    """

    past: tuple[EngineStep, ...] = ()
    _unsent: list[EngineStep] = field(default_factory=list[EngineStep])
    on_step: Callable[[], None] = lambda: None

    def record(self, step: EngineStep) -> None:
        self._unsent.append(step)
        self.on_step()

    def take_unsent(self) -> str:
        """The steps since the last call, as `written` writes them."""
        text = written(self._unsent)
        self._unsent.clear()
        return text

    def past_of(self, call: int) -> Iterator[EngineStep]:
        """What is to be replayed in the place of an engine's call, in its order."""
        return (step for step in self.past if step.call == call)


def _written_step(step: EngineStep) -> str:
    parts = [str(step.call), str(step.index), _BETWEEN_IDS.join(map(str, step.token_ids))]
    if step.finish_reason is not None:
        parts.append(step.finish_reason)
        # Last, for a stop string may hold what stands between parts.
        reason = json.dumps(step.stop_reason)
        parts.append(reason.replace(_BETWEEN_STEPS, "\\u003b"))
    return _BETWEEN_PARTS.join(parts)


def _read_step(text: str) -> EngineStep:
    parts = text.split(_BETWEEN_PARTS, 4)
    call, index, ids = int(parts[0]), int(parts[1]), parts[2]
    token_ids = tuple(map(int, ids.split(_BETWEEN_IDS))) if ids else ()
    if len(parts) == 3:
        return EngineStep(call, index, token_ids)
    return EngineStep(call, index, token_ids, parts[3], json.loads(parts[4]))
