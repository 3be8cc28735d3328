"""Slots and queue bounds of the GPUs that are served, from the model's sizes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.admission.capacity import (
    Limits,
    decode_step_ms,
    derive_limits,
    express_slots,
)
from serve_app.core.placement.hardware import CPU, RTX_4090, T4, Hardware, hardware_for, model_shape
from tests.builders import R1_DISTILL_QWEN_1_5B

SHAPE = model_shape(R1_DISTILL_QWEN_1_5B)
GIB = 1024**3


def limits(hardware: Hardware = T4, **changed: Any) -> Limits:
    """The chat tier's settings unless said otherwise."""
    defaults: dict[str, Any] = {
        "kv_tokens": 350_000,
        "prompt_tokens": 512,
        "max_new_tokens": 1024,
        "expected_new_tokens": 400,
        "min_stream_tokens_per_s": 8.0,
        "max_wait_s": 10.0,
    }
    return derive_limits(hardware, SHAPE, **(defaults | changed))


def test_the_sizes_of_r1_distill_qwen_1_5b() -> None:
    assert SHAPE.parameters == 1_777_088_000
    assert SHAPE.weight_bytes == 3_554_176_000
    assert SHAPE.kv_bytes_per_token == 28_672
    assert SHAPE.step_read_bytes == pytest.approx(3.087e9, rel=1e-3)


def test_tied_embeddings_are_stored_once_and_read_each_step() -> None:
    tied = model_shape({**R1_DISTILL_QWEN_1_5B, "tie_word_embeddings": True})
    assert SHAPE.parameters - tied.parameters == 151_936 * 1536
    assert tied.step_read_bytes == tied.weight_bytes


def test_a_llama_has_no_attention_bias() -> None:
    # SmolLM2-135M: 134.5 million parameters, as its model card says.
    smollm2 = {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_hidden_layers": 30,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
        "vocab_size": 49152,
    }
    assert model_shape(smollm2).parameters == 134_515_008
    assert model_shape(smollm2).step_read_bytes == pytest.approx(269e6, rel=1e-3)


@pytest.mark.parametrize("missing", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_config_without_a_size_names_it(missing: str) -> None:
    config = {name: value for name, value in R1_DISTILL_QWEN_1_5B.items() if name != missing}
    with pytest.raises(ValueError, match=missing):
        model_shape(config)


def test_a_head_size_of_its_own_is_used() -> None:
    wide = model_shape({**R1_DISTILL_QWEN_1_5B, "head_dim": 256})
    assert wide.kv_bytes_per_token == 2 * SHAPE.kv_bytes_per_token


@pytest.mark.parametrize(
    ("hardware", "one_stream_ms", "more_ms"), [(T4, 14.5, 0.13), (RTX_4090, 5.0, 0.0695)]
)
def test_a_decode_step_is_the_weights_over_the_bandwidth_and_the_derived_overhead(
    hardware: Hardware, one_stream_ms: float, more_ms: float
) -> None:
    assert decode_step_ms(hardware, SHAPE, 0) == pytest.approx(one_stream_ms, abs=0.05)
    step = decode_step_ms(hardware, SHAPE, 101) - decode_step_ms(hardware, SHAPE, 100)
    assert step == pytest.approx(more_ms)


@pytest.mark.parametrize(
    ("hardware", "memory_gib", "max_new_tokens", "slots"),
    [(T4, 10.0, 1024, 243), (T4, 10.0, 2048, 146), (RTX_4090, 17.0, 1024, 256),
     (RTX_4090, 17.0, 2048, 248)],
)  # fmt: skip
def test_slots_of_a_gpu_are_what_its_memory_holds_at_the_tiers_full_length(
    hardware: Hardware, memory_gib: float, max_new_tokens: int, slots: int
) -> None:
    kv_tokens = int(memory_gib * GIB) // SHAPE.kv_bytes_per_token
    assert limits(hardware, kv_tokens=kv_tokens, max_new_tokens=max_new_tokens).slots == slots


def test_slots_leave_each_stream_its_speed() -> None:
    derived = limits(T4, kv_tokens=10**9, min_stream_tokens_per_s=25.0)
    # 40 ms a token, less 14.5 ms a step, at 0.13 ms a sequence.
    assert derived.slots == 196
    assert decode_step_ms(T4, SHAPE, derived.slots) <= 40.0


def test_the_line_is_one_turn_of_the_slots_or_what_starts_within_the_longest_wait() -> None:
    derived = limits(T4, kv_tokens=100 * 1536)
    step_s = decode_step_ms(T4, SHAPE, 100) / 1e3
    assert derived.slots == 100
    assert derived.service_s == pytest.approx(400 * step_s)
    assert derived.max_queued_requests == max(100, int(10 * 100 / (400 * step_s)))


def test_the_reason_names_all_bounds_and_the_gpu() -> None:
    reason = limits(T4).reason
    for part in ("memory", "speed", "engine", "NVIDIA T4", "derived"):
        assert part in reason


def test_the_smallest_memory_still_runs_one_and_lets_one_wait() -> None:
    derived = limits(CPU, kv_tokens=0, max_wait_s=0.001)
    assert (derived.slots, derived.max_queued_requests) == (1, 1)


@given(
    st.integers(0, 10**7), st.integers(0, 10**6), st.sampled_from([T4, RTX_4090, CPU]),
    st.floats(0.5, 500),
)  # fmt: skip
def test_more_memory_never_means_fewer_slots_and_the_engines_bound_holds(
    kv_tokens: int, more: int, hardware: Hardware, tokens_per_s: float
) -> None:
    small = limits(hardware, kv_tokens=kv_tokens, min_stream_tokens_per_s=tokens_per_s)
    large = limits(hardware, kv_tokens=kv_tokens + more, min_stream_tokens_per_s=tokens_per_s)
    assert 1 <= small.slots <= large.slots <= hardware.max_sequences


def test_the_gpu_is_found_by_rays_name() -> None:
    assert hardware_for("T4") is T4
    assert hardware_for("GeForce-RTX-4090") is RTX_4090
    assert hardware_for(None) is CPU


def test_an_unknown_gpu_is_treated_as_the_smallest_and_says_so() -> None:
    gpu = hardware_for("H100")
    assert (gpu.name, gpu.memory_bytes, gpu.dtype) == ("H100", T4.memory_bytes, "auto")
    assert gpu.attention_backend is None
    assert "unknown" in gpu.status


def test_a_quarter_runs_above_the_slots_and_never_more_than_there_are_slots() -> None:
    assert [express_slots(slots) for slots in (1, 2, 8, 32, 126, 256)] == [1, 2, 2, 8, 31, 64]
