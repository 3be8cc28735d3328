"""Waves as a server with known step times would have answered them."""

from array import array
from itertools import accumulate

from loadtest.calibration.waves import Answered, Wave
from loadtest.load.record import Outcome, Record

BASE_MS, SEQUENCE_MS, CONTEXT_MS, PROMPT_MS, OVERHEAD_MS = 40.0, 2.5, 0.5, 1.2, 12.0
PAIRS_MS = 300.0


def step_ms(sequences: int, context_tokens: float) -> float:
    return BASE_MS + SEQUENCE_MS * sequences + CONTEXT_MS * context_tokens / 1e3


def first_token_ms(prompt_tokens: int) -> float:
    """Alone."""
    own_ms = PROMPT_MS * prompt_tokens + PAIRS_MS * prompt_tokens**2 / 2e6
    return OVERHEAD_MS + step_ms(1, 0) + own_ms


def answered(sequences: int, prompt_tokens: int, new_tokens: int) -> Answered:
    """All of a wave get their first token together."""
    first_s = first_token_ms(sequences * prompt_tokens) / 1e3
    gaps_s = [
        step_ms(sequences, sequences * (prompt_tokens + made)) / 1e3
        for made in range(1, new_tokens)
    ]
    token_s = array("d", accumulate(gaps_s, initial=first_s))
    records = [record(number, prompt_tokens, token_s) for number in range(sequences)]
    return Answered(Wave(sequences, prompt_tokens, new_tokens), tuple(records))


def record(number: int, prompt_tokens: int, token_s: "array[float]", tokens: int = 0) -> Record:
    """`tokens` where the chunks hold more than one each."""
    made = Record(number, 0, "chat", 0.0, prompt_tokens, tokens or len(token_s))
    made.first_sent_s = made.sent_s = 0.0
    made.token_s, made.ended_s, made.outcome = token_s, token_s[-1], Outcome.SERVED
    made.input_tokens, made.output_tokens = prompt_tokens, tokens or len(token_s)
    return made
