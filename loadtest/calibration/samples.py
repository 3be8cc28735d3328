"""From waves of requests to what a step took, and what a prompt's first token took."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from loadtest.calibration.waves import PREFILL_NEW_TOKENS, Answered
from loadtest.load.record import Record

# A client reads two chunks at once now and then: so many in a row have their true length.
STRETCH_CHUNKS = 8


@dataclass(frozen=True, slots=True)
class Step:
    """Decode steps of a batch that nobody joined or left; `context_tokens` of all sequences."""

    sequences: int
    context_tokens: float
    step_ms: float


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Of a request that was alone."""

    prompt_tokens: int
    ttft_ms: float


def steps(answered: Sequence[Answered]) -> list[Step]:
    return [step for wave in answered if _decodes(wave) and (step := _step(wave)) is not None]


def first_tokens(answered: Sequence[Answered]) -> list[FirstToken]:
    """Of each wave of one request."""
    return [
        FirstToken(_prompt(wave.records[0]), 1e3 * ttft_s)
        for wave in answered
        if wave.wave.sequences == 1 and (ttft_s := wave.records[0].ttft_s) is not None
    ]


def _decodes(wave: Answered) -> bool:
    return wave.wave.new_tokens > PREFILL_NEW_TOKENS


def _step(wave: Answered) -> Step | None:
    """From the last first token to the first end. None if they hardly overlap."""
    begin_s = max(record.token_s[0] for record in wave.records)
    end_s = min(record.token_s[-1] for record in wave.records)
    found = [s for record in wave.records for s in _stretches_s(record, begin_s, end_s)]
    if not found:
        return None
    context = sum(_context(record, begin_s, end_s) for record in wave.records)
    return Step(len(wave.records), context, 1e3 * median(found))


def _stretches_s(record: Record, begin_s: float, end_s: float) -> Iterator[float]:
    """Seconds of a step, of each stretch of chunks within the window."""
    inside = [at_s for at_s in record.token_s if begin_s <= at_s <= end_s]
    # Where the server was late it has put two tokens into a chunk.
    tokens_a_chunk = (record.output_tokens or 0) / len(record.token_s)
    for first in range(0, len(inside) - STRETCH_CHUNKS, STRETCH_CHUNKS):
        took_s = inside[first + STRETCH_CHUNKS] - inside[first]
        yield took_s / (STRETCH_CHUNKS * tokens_a_chunk)


def _context(record: Record, begin_s: float, end_s: float) -> float:
    """Tokens before the middle of the window."""
    middle_s = (begin_s + end_s) / 2
    return _prompt(record) + sum(at_s <= middle_s for at_s in record.token_s)


def _prompt(record: Record) -> int:
    """As the server counted it, its chat template included; as asked where it did not say."""
    return record.input_tokens or record.input_tokens_asked
