"""Waves as a server with known step times would have answered them."""

from array import array
from itertools import accumulate

from loadtest.calibration.waves import Answered, Busy, Wave
from loadtest.client.record import Outcome, Record

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


def busy(clients: int, requests: int) -> Answered:
    """Step by step: who has its answer asks again at once. Prompts of 40 to 280 tokens, answers of
    20 to 68, and a step of `step_ms` and its prompts."""
    now_s, decoding, records = 0.0, list[Record](), list[Record]()
    while len(records) < requests or decoding:
        ended = [r for r in decoding if len(r.token_s) == r.output_tokens]
        decoding = [r for r in decoding if r not in ended]
        waiting = min(clients - len(decoding), requests - len(records))
        new = [_asked(len(records) + place, now_s) for place in range(waiting)]
        context = sum((r.input_tokens or 0) + len(r.token_s) for r in decoding)
        prompts = [r.input_tokens or 0 for r in new]
        now_s += step_ms(len(decoding), context) / 1e3
        now_s += sum(PROMPT_MS * p + PAIRS_MS * p**2 / 2e6 for p in prompts) / 1e3
        decoding += new
        records += new
        for running in decoding:
            running.token_s.append(now_s)
    return Answered(Busy(clients), tuple(records))


def _asked(number: int, now_s: float) -> Record:
    made = Record(number, 0, "chat", now_s, 40 + 60 * (number % 5), 20 + 8 * (number % 7))
    made.first_sent_s = made.sent_s = now_s
    made.input_tokens, made.output_tokens = made.input_tokens_asked, made.output_tokens_asked
    return made


def record(number: int, prompt_tokens: int, token_s: "array[float]", tokens: int = 0) -> Record:
    """`tokens` where the chunks hold more than one each."""
    made = Record(number, 0, "chat", 0.0, prompt_tokens, tokens or len(token_s))
    made.first_sent_s = made.sent_s = 0.0
    made.token_s, made.ended_s, made.outcome = token_s, token_s[-1], Outcome.SERVED
    made.input_tokens, made.output_tokens = prompt_tokens, tokens or len(token_s)
    return made
