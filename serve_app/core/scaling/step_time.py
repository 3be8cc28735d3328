"""How long an engine step takes, how much of a replica's time a request needs, and learning both.

One step decodes a token for each running sequence and prefills some prompt tokens beside them:
`base + per_sequence * sequences + per_prompt_token * prompt tokens`. The base (reading the weights)
is shared by all that run; the other two are what a request costs by itself.
"""

from dataclasses import dataclass, replace

from serve_app.core.placement.hardware import Hardware, ModelShape

# About the last 2,000 steps count: a minute of a busy replica. With 500, the number of replicas
# follows each wave of long contexts.
NEWEST_WEIGHT = 0.0005
# Of steps with a prompt there are fewer; about the last fifty count. What a short prompt takes is
# lost in how much steps vary, so that each counts by its tokens, up to this many. What is derived
# counts like one of them.
NEWEST_PROMPT_WEIGHT = 0.02
WHOLE_PROMPT_TOKENS = 512
# A measured factor beyond these bounds is an error of the measurement, not a speed. What is derived
# is of a model of billions of weights: one of a million is read hundreds of times as fast.
LEAST_FACTOR, MOST_FACTOR = 0.001, 20.0


@dataclass(frozen=True, slots=True)
class StepModel:
    base_ms: float
    per_sequence_ms: float
    per_prompt_token_ms: float

    def step_ms(self, sequences: float, prompt_tokens: float = 0.0) -> float:
        return (
            self.base_ms
            + self.per_sequence_ms * sequences
            + self.per_prompt_token_ms * prompt_tokens
        )

    def request_s(self, *, slots: int, prompt_tokens: float, new_tokens: float) -> float:
        """Seconds of a full replica's time that one request takes.

        With all slots busy each token carries its share of the base. With arrivals at `rate` a
        replica settles at `sequences = rate * new_tokens * step`, which has a solution within its
        slots exactly while `rate * request_s <= 1`: so 1 / request_s is its capacity.
        """
        prompt_s = prompt_tokens * self.per_prompt_token_ms / 1e3
        return new_tokens * self.token_s(slots) + prompt_s

    def token_s(self, slots: int) -> float:
        """Seconds of a full replica's time that one token of an answer takes."""
        return (self.base_ms / slots + self.per_sequence_ms) / 1e3


def derived_step_model(hardware: Hardware, shape: ModelShape) -> StepModel:
    """From the GPU's figures: a small model's decode is bound by memory bandwidth (roofline:
    bytes read / bandwidth), its prefill by arithmetic."""
    read_ms = shape.step_read_bytes / hardware.bandwidth_bytes_per_s * 1e3
    return StepModel(
        base_ms=read_ms + hardware.step_overhead_ms,
        per_sequence_ms=hardware.step_per_sequence_ms,
        per_prompt_token_ms=1e3 / hardware.prefill_tokens_per_s,
    )


@dataclass(frozen=True, slots=True)
class StepSpeed:
    """Measured against derived step times, as two factors: of decoding and of prefill.

    The shape of the model stays as derived; a factor each is what noisy steps can show. `steps`
    counts what was measured; 0 means derived only. `prompts` counts whole prompts.
    """

    decode_factor: float = 1.0
    prefill_factor: float = 1.0
    steps: int = 0
    prompts: float = 0.0

    def applied_to(self, derived: StepModel) -> StepModel:
        return replace(
            derived,
            base_ms=derived.base_ms * self.decode_factor,
            per_sequence_ms=derived.per_sequence_ms * self.decode_factor,
            per_prompt_token_ms=derived.per_prompt_token_ms * self.prefill_factor,
        )


def observe_step(
    speed: StepSpeed,
    derived: StepModel,
    *,
    took_ms: float,
    sequences: int,
    prompt_tokens: int,
    steps: int = 1,
    tokens: int | None = None,
) -> StepSpeed:
    """Learn from one step that followed another without a pause, or from so many alike. `tokens`
    are what it made, where that is more than one for each sequence: a step that verifies drafts
    counts as so many, each of which took its part.

    A step without a prompt teaches the decode factor; what a step with prompt tokens takes beyond
    its decode part teaches the prefill factor. The first steps of decoding replace the derived
    value at once, the first prompts by their tokens. Beside a short prompt that part is lost in how
    much steps vary, in both directions: what one step is off counts as far in the one as in the
    other, or many of them would teach a prefill of several times what it is.
    """
    decode_ms = derived.step_ms(sequences)
    if tokens is not None and sequences:
        decode_ms *= tokens / sequences
    weight = max(1 - (1 - NEWEST_WEIGHT) ** steps, steps / (speed.steps + steps))
    if prompt_tokens == 0:
        factor = _bounded(took_ms / decode_ms)
        decode = speed.decode_factor + weight * (factor - speed.decode_factor)
        return replace(speed, decode_factor=decode, steps=speed.steps + steps)
    decode_ms *= speed.decode_factor
    prompt_ms = derived.per_prompt_token_ms * prompt_tokens
    most_off_ms = max(decode_ms, MOST_FACTOR * prompt_ms)
    off_ms = took_ms - decode_ms - speed.prefill_factor * prompt_ms
    off_ms = min(max(off_ms, -most_off_ms), most_off_ms)
    part = min(1.0, prompt_tokens / WHOLE_PROMPT_TOKENS)
    prompts = min(speed.prompts + part, 1 / NEWEST_PROMPT_WEIGHT - 1)
    prefill = _bounded(speed.prefill_factor + part / (1 + prompts) * off_ms / prompt_ms)
    return replace(speed, prefill_factor=prefill, steps=speed.steps + 1, prompts=prompts)


def _bounded(factor: float) -> float:
    return min(max(factor, LEAST_FACTOR), MOST_FACTOR)
