"""From waves of requests to what a step took, and what a prompt's first token took."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from loadtest.calibration.waves import PREFILL_NEW_TOKENS, Answered, Busy, Wave
from loadtest.client.record import Record
from loadtest.simulation.profile import pairs

# A client reads two chunks at once now and then: so many in a row have their true length.
STRETCH_CHUNKS = 8
# Chunks of one step come to the client as near together as this, and those of the next one do not.
SAME_STEP_S = 0.002


@dataclass(frozen=True, slots=True)
class Step:
    """Decode steps of a batch; `context_tokens` of all sequences. `prompts`: so many began in each
    of them on the average, whose tokens are not counted in `step_ms`."""

    sequences: float
    context_tokens: float
    step_ms: float
    prompts: float = 0.0


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Of a request that was alone."""

    prompt_tokens: int
    ttft_ms: float


@dataclass(frozen=True, slots=True)
class BusyTime:
    """Of a wave in which one request followed another, while all clients were busy: so many steps
    took `took_ms` together, with so many sequences and so much context on the average. Among them
    were the steps of so many `prompts`: `prompt_tokens` in all, and their `prompt_pairs`."""

    steps: float
    took_ms: float
    sequences: float
    context_tokens: float
    prompts: int
    prompt_tokens: int
    prompt_pairs: float


def steps(answered: Sequence[Answered]) -> list[Step]:
    """Of waves that nobody joined or left."""
    return [step for wave in answered if _decodes(wave) and (step := _step(wave)) is not None]


def busy_times(answered: Sequence[Answered]) -> list[BusyTime]:
    return [
        busy
        for wave in answered
        if isinstance(wave.wave, Busy)
        and (busy := _busy_time(wave.records, wave.wave.sequences)) is not None
    ]


def first_tokens(answered: Sequence[Answered]) -> list[FirstToken]:
    """Of each wave of one request."""
    return [
        FirstToken(_prompt(wave.records[0]), 1e3 * ttft_s)
        for wave in answered
        if isinstance(wave.wave, Wave)
        and wave.wave.sequences == 1
        and (ttft_s := wave.records[0].ttft_s) is not None
    ]


def _decodes(wave: Answered) -> bool:
    return isinstance(wave.wave, Wave) and wave.wave.new_tokens > PREFILL_NEW_TOKENS


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
    for first in range(0, len(inside) - STRETCH_CHUNKS, STRETCH_CHUNKS):
        took_s = inside[first + STRETCH_CHUNKS] - inside[first]
        yield took_s / (STRETCH_CHUNKS * _tokens_a_chunk(record))


def _context(record: Record, begin_s: float, end_s: float) -> float:
    """Tokens before the middle of the window."""
    middle_s = (begin_s + end_s) / 2
    return _prompt(record) + sum(at_s <= middle_s for at_s in record.token_s)


def _busy_time(records: Sequence[Record], clients: int) -> BusyTime | None:
    """From when each client has had its first token until the last request is sent. Each step gives
    a token to each sequence that decodes: a token of one of five is a fifth of a step.
    """
    begin_s = sorted(record.token_s[0] for record in records)[clients - 1]
    end_s = max(record.sent_s or 0.0 for record in records)
    begun = [_prompt(record) for record in records if begin_s < record.token_s[0] <= end_s]
    tokens = steps = read = 0.0
    for record in records:
        size = _tokens_a_chunk(record)
        for place, at_s in enumerate(record.token_s):
            # A first token comes of its prompt's step.
            if place and begin_s < at_s <= end_s:
                tokens += size
                steps += size / _decoding(records, at_s)
                read += size * (_prompt(record) + place * size)
    if not steps:
        return None
    return BusyTime(
        steps=steps,
        took_ms=1e3 * (end_s - begin_s),
        sequences=tokens / steps,
        context_tokens=read / steps,
        prompts=len(begun),
        prompt_tokens=sum(begun),
        prompt_pairs=sum(pairs(0, prompt) for prompt in begun),
    )


def _decoding(records: Sequence[Record], at_s: float) -> int:
    """How many get a token of their answer in the step that ends then."""
    early_s = at_s - SAME_STEP_S
    return max(1, sum(r.token_s[0] < early_s < r.token_s[-1] for r in records))


def _tokens_a_chunk(record: Record) -> float:
    """Where the server was late it has put two tokens into a chunk."""
    return (record.output_tokens or 0) / len(record.token_s)


def _prompt(record: Record) -> int:
    """As the server counted it, its chat template included; as asked where it did not say."""
    return record.input_tokens or record.input_tokens_asked
