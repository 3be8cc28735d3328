"""How long prompts take until their first tokens, and how much of that an engine is given at once.

An engine reads prompts in order of their arrival, in chunks beside the running sequences, so a
first token comes when all prompts before it and its own have been read. What no step time knows is
learnt as one factor, `PrefillPace`: what the prefix cache gives, chunks, steps that vary.
"""

from dataclasses import dataclass

# An engine has no more prompts to read than take so long; all others wait at the gate, where they
# keep their order, are seen by autoscaling, and can be forwarded. Enough that no step is without
# prompts while the next ones are on their way, and that chunks are whole.
ENGINE_LIMIT_S = 0.5
# Of a short `max_wait_s` no more than this part is spent inside the engine.
ENGINE_SHARE = 0.1
# vLLM's default of `max_num_batched_tokens` for a server: so many are read in a step.
STEP_TOKENS = 2048
# About the last 30 prompts say how long reading takes against what was reckoned; what is derived
# counts like so many seconds of reading.
PACE_KEPT, DERIVED_S = 0.97, 1.0
# The prefix cache may give all of most prompts and nothing of the next one.
QUICKEST, SLOWEST = 0.25, 200.0


def prompt_token_s(prompt_token_ms: float, step_ms: float) -> float:
    """Seconds that a prompt token takes beside sequences whose steps take so long without it: its
    own, and its part of the steps in which whole chunks are read."""
    return (prompt_token_ms + step_ms / STEP_TOKENS) / 1e3


@dataclass(frozen=True, slots=True)
class PrefillPace:
    """How long prompts took from their grant to their first token, and what was reckoned, as sums
    that forget."""

    took_s: float = DERIVED_S
    reckoned_s: float = DERIVED_S

    @property
    def factor(self) -> float:
        """How many times as long as reckoned it takes."""
        return min(max(self.took_s / self.reckoned_s, QUICKEST), SLOWEST)


def observe_prefill(pace: PrefillPace, *, took_s: float, reckoned_s: float) -> PrefillPace:
    """Learn from a prompt whose first token has come."""
    return PrefillPace(
        pace.took_s * PACE_KEPT + took_s, pace.reckoned_s * PACE_KEPT + max(reckoned_s, 1e-6)
    )


def engine_limit_s(max_wait_s: float) -> float:
    """How many seconds of reading the engine is given at once."""
    return min(ENGINE_LIMIT_S, ENGINE_SHARE * max_wait_s)


@dataclass(frozen=True, slots=True)
class PrefillAhead:
    """What a request finds before it, in seconds of reading: inside the engine, and of those that
    wait at the gate; `flow_s`: until those of its own flow are read. `own_s` is its own prompt's,
    `mean_s` that of one that comes back. `open`: the engine takes another request at once."""

    engine_s: float = 0.0
    queued_s: float = 0.0
    flow_s: float = 0.0
    own_s: float = 0.0
    mean_s: float = 0.0
    open: bool = True

    @property
    def read_s(self) -> float:
        """Until all before it is read."""
        return self.engine_s + self.queued_s

    def first_token_in_s(self, slot_free_s: float) -> float:
        """Seconds to its first token if its slot is free then."""
        return max(slot_free_s, self.read_s) + self.own_s
