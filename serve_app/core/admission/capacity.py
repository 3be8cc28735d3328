"""How many sequences a replica runs at once and how many requests may wait: by GPU and model."""

import math
from dataclasses import dataclass

from serve_app.core.placement.hardware import Hardware, ModelShape
from serve_app.core.scaling.step_time import derived_step_model

# A quarter of the slots. Answers of one length end together, and between two such ends no slot
# comes free: callers below their share have as many requests as come in that time. With two of 32
# slots the p95 of a first token was 3 to 4 s beside such a flood, with eight 50 ms (alone: 42).
EXPRESS_PART, LEAST_EXPRESS = 4, 2


@dataclass(frozen=True, slots=True)
class Limits:
    """Derived limits of one replica. `service_s` is the expected hold time of a slot while all
    are busy, `batch_cost` what a sequence adds to a step, as a share of a step with none."""

    slots: int
    max_queued_requests: int
    service_s: float
    batch_cost: float
    reason: str


def express_slots(slots: int) -> int:
    """How many sequences above its slots a replica runs of callers that are below their share while
    others have all slots. Each is made up for by the next slot that comes free, so that the batch
    is larger only while such callers ask faster than slots come free."""
    return min(slots, max(LEAST_EXPRESS, slots // EXPRESS_PART))


def decode_step_ms(hardware: Hardware, shape: ModelShape, sequences: int) -> float:
    """Time of one decode step, as derived (`core/scaling/step_time.py`)."""
    return derived_step_model(hardware, shape).step_ms(sequences)


def derive_limits(
    hardware: Hardware,
    shape: ModelShape,
    *,
    kv_tokens: int,
    prompt_tokens: int,
    max_new_tokens: int,
    expected_new_tokens: int,
    min_stream_tokens_per_s: float,
    max_wait_s: float,
) -> Limits:
    """Slots = the smallest of three bounds; queue = one turn of the slots, or what drains in time.

    - memory: `kv_tokens / (prompt_tokens + max_new_tokens)`, so that sequences that all run to the
      tier's limit still fit and the engine never preempts one;
    - speed: the largest batch whose decode step leaves each stream `min_stream_tokens_per_s`;
    - the engine's own bound for this GPU.

    By Little's law a replica with all slots busy frees `slots / service_s` of them a second, so
    `max_wait_s * slots / service_s` requests start within the wait. The queue may hold as many as
    there are slots even where fewer than that are expected to start in time: the measured drain
    still refuses those that would not, and a queue of a few places makes every Retry-After a guess.
    """
    by_memory = max(1, kv_tokens // (prompt_tokens + max_new_tokens))
    by_speed = _slots_for_speed(hardware, shape, min_stream_tokens_per_s)
    slots = min(by_memory, by_speed, hardware.max_sequences)
    service_s = expected_new_tokens * decode_step_ms(hardware, shape, slots) / 1e3
    in_time = math.floor(max_wait_s * slots / service_s)
    queued = max(slots, in_time)
    reason = (
        f"slots {slots} = min(memory {by_memory}, speed {by_speed}, engine "
        f"{hardware.max_sequences}); queue {queued} = max(slots, {in_time} that start in "
        f"{max_wait_s:g} s at {service_s:.1f} s a request); {hardware.name}, {hardware.status}"
    )
    batch_cost = hardware.step_per_sequence_ms / decode_step_ms(hardware, shape, 0)
    return Limits(slots, queued, service_s, batch_cost, reason)


def _slots_for_speed(hardware: Hardware, shape: ModelShape, tokens_per_s: float) -> int:
    budget_ms = 1e3 / tokens_per_s - decode_step_ms(hardware, shape, 0)
    return max(1, math.floor(budget_ms / hardware.step_per_sequence_ms))
