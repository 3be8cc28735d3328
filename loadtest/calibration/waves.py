"""What calibration asks a server: waves of requests that are all alike and are sent at once, and
waves in which one request follows another, as under load."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from loadtest.client.chat import RunClock
from loadtest.client.record import Record
from loadtest.errors import UserError
from loadtest.load.generator import Generator
from loadtest.load.targets import Target
from loadtest.scenario import Closed, Load, Lognormal, Scenario

# Of a prompt that shall be short: its number and its mark take some.
SHORT_TOKENS = 16
# Steps at a constant batch; after them the sequences end together.
DECODE_TOKENS = 32
# A prompt is measured by its first token; the others are there in case that has no text.
PREFILL_NEW_TOKENS = 4
PREFILL_PROMPTS = (16, 64, 128, 256, 512, 1024)
CONTEXT_PROMPTS = (512, 1024)
# What prefill of the prompts of one wave may take: contexts are tested with fewer sequences.
CONTEXT_WAVE_TOKENS = 4096
# What a chat template adds to a prompt, with room to spare.
TEMPLATE_TOKENS = 64
# What comes and goes under load, in calibration and in validation.
PROMPTS = Lognormal(median=64, p95=256)
ANSWERS = Lognormal(median=48, p95=144)
# Where requests follow each other: below so many sequences they are as alone as in other waves.
LEAST_BUSY = 4
# Of each client in turn, with many clients at most so many in all, but two of each: until the last
# one is sent all are busy.
BUSY_TURNS, BUSY_REQUESTS = 4, 64
SETTLE_S = 0.3
LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Wave:
    """`sequences` requests of about `prompt_tokens`, answered with exactly `new_tokens` each."""

    sequences: int
    prompt_tokens: int
    new_tokens: int

    def words(self) -> str:
        return f"{self.sequences} at once, {self.prompt_tokens} + {self.new_tokens} tokens"


@dataclass(frozen=True, slots=True)
class Busy:
    """So many clients, each of which asks again when it has its answer; lengths as under load."""

    sequences: int

    def words(self) -> str:
        return f"{self.sequences} busy, one request after the other"


@dataclass(frozen=True, slots=True)
class Answered:
    """A wave and its requests, each with the time of each token."""

    wave: Wave | Busy
    records: tuple[Record, ...]


def plan(slots: int, prompt_room: int) -> list[Wave | Busy]:
    """One round. `prompt_room`: the longest prompt that the server takes, in tokens."""
    batches = sorted({*(1 << k for k in range(slots.bit_length())), slots})
    decode = [Wave(batch, SHORT_TOKENS, DECODE_TOKENS) for batch in batches]
    longest = prompt_room - TEMPLATE_TOKENS
    contexts = [prompt for prompt in CONTEXT_PROMPTS if prompt <= longest]
    context = [
        Wave(max(1, min(slots, CONTEXT_WAVE_TOKENS // prompt)), prompt, DECODE_TOKENS)
        for prompt in contexts
    ]
    prompts = [prompt for prompt in PREFILL_PROMPTS if prompt <= longest]
    prefill = [Wave(1, prompt, PREFILL_NEW_TOKENS) for prompt in prompts]
    busy = [Busy(batch) for batch in batches if batch >= LEAST_BUSY]
    return [*decode, *context, *prefill, *busy, *prefill]


async def ask_rounds(
    session: aiohttp.ClientSession,
    target: Target,
    tier: str,
    waves: Sequence[Wave | Busy],
    *,
    rounds: int,
    limit_s: float,
    on_wave: Callable[[Answered], None],
    settle_s: float = SETTLE_S,
) -> None:
    """One wave after the other, and all of them again, so that what drifts is in every kind; no
    round begins that would end after `limit_s` if it took as long as the one before."""
    clock = RunClock()
    for done in range(rounds):
        if done and clock() * (done + 1) / done > limit_s:
            return
        for number, wave in enumerate(waves):
            seed = done * len(waves) + number
            answered = await _ask(session, target, tier, wave, seed)
            if answered is not None:
                on_wave(answered)
            await asyncio.sleep(settle_s)


async def _ask(
    session: aiohttp.ClientSession, target: Target, tier: str, wave: Wave | Busy, seed: int
) -> Answered | None:
    """None where an answer had no text, such as half a character: its times are not known."""
    scenario = Scenario(loads=(_load(tier, wave),), seed=seed, timeout=LIMIT_S)
    records: list[Record] = []
    await Generator(scenario, {tier: target}, records.append).run(session)
    for record in records:
        if record.reason == "no_tokens":
            return None
        if not record.served:
            raise UserError(
                f"A wave of {wave.sequences} requests was not served: {record.reason} "
                f"{record.detail}. Calibration needs a server that nothing else asks."
            )
    return Answered(wave, tuple(records))


def _load(tier: str, wave: Wave | Busy) -> Load:
    clients = Closed(kind="closed", concurrency=wave.sequences)
    if isinstance(wave, Busy):
        number = wave.sequences
        count = max(2 * number, min(BUSY_TURNS * number, BUSY_REQUESTS))
        return Load(
            tier=tier, arrivals=clients, input_tokens=PROMPTS, output_tokens=ANSWERS, requests=count
        )
    return Load(
        tier=tier,
        arrivals=clients,
        input_tokens=wave.prompt_tokens,
        output_tokens=wave.new_tokens,
        requests=wave.sequences,
    )
