"""What fits on which GPU, and that each refusal names what would help."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.placement.fit import (
    GpuSpec,
    MemoryFit,
    fit_model,
    gpu_of,
    ways_to_fit,
    weight_bytes,
)
from serve_app.core.placement.hardware import GIB, MIB, RTX_4090, T4, hardware_for, model_shape
from serve_app.core.placement.quantization import Weights, choose_weights
from tests.builders import R1_DISTILL_QWEN_1_5B

SHAPE = model_shape(R1_DISTILL_QWEN_1_5B)
PLAIN = Weights(None, None, 2.0, "16-bit weights")
FP8 = Weights("fp8", "fp8_per_tensor", 1.0, "fp8 weights")
SIX_GB = GpuSpec("a 6 GB GPU", 6144 * MIB, (7, 5))


def fit(
    gpu: GpuSpec, weights: Weights = PLAIN, *, share: float = 0.90, context: int = 4096
) -> MemoryFit:
    return fit_model(
        gpu,
        weights_bytes=weight_bytes(SHAPE, weights),
        kv_bytes_per_token=SHAPE.kv_bytes_per_token,
        max_model_len=context,
        utilization=share,
    )


@pytest.mark.parametrize(("gpu", "kv_tokens"), [(gpu_of(T4), 320_000), (gpu_of(RTX_4090), 610_000)])
def test_the_kv_cache_is_what_the_published_formula_gives(gpu: GpuSpec, kv_tokens: int) -> None:
    # calibration: (0.90 * visible GiB - 3.34 - 1.2..1.4) * 2^30 / 28672
    found = fit(gpu)
    assert found.fits
    assert found.kv_tokens == pytest.approx(kv_tokens, rel=0.02)


def test_the_reason_has_each_number_of_the_sum() -> None:
    reason = fit(gpu_of(T4)).reason
    for part in ("0.9 of 14.62 GiB", "3.31", "1.30", "8.55 GiB", "28,672", "4096", "NVIDIA T4"):
        assert part in reason


@pytest.mark.parametrize(
    ("gpu", "weights", "share", "fits"),
    [
        (gpu_of(T4), PLAIN, 0.44, True),
        (gpu_of(T4), PLAIN, 0.30, False),
        (gpu_of(RTX_4090), PLAIN, 0.19, False),
        (SIX_GB, PLAIN, 0.90, True),
        (SIX_GB, FP8, 0.85, True),
        (SIX_GB, PLAIN, 0.44, False),
        (SIX_GB, FP8, 0.44, False),
    ],
)
def test_a_share_of_a_gpu_holds_the_model_or_not(
    gpu: GpuSpec, weights: Weights, share: float, fits: bool
) -> None:
    assert fit(gpu, weights, share=share).fits is fits


def test_less_than_one_sequence_of_the_context_is_refused() -> None:
    gpu = replace(SIX_GB, memory_bytes=5600 * MIB)
    assert fit(gpu, context=1024).fits
    refused = fit(gpu, context=65_536)
    assert refused.fits is False
    assert "it must hold one" in refused.reason


def test_what_only_fits_with_the_least_overhead_seen_is_tried_and_says_so() -> None:
    kv_tokens = fit(SIX_GB).kv_tokens
    assert kv_tokens is not None
    barely = fit(SIX_GB, context=kv_tokens + 1000)
    assert barely.fits
    assert "only just" in barely.reason


def test_an_unknown_gpu_is_taken_as_its_driver_says_or_not_checked() -> None:
    unknown = hardware_for("L4")
    assert fit(gpu_of(unknown)).fits is None
    assert "L4 is not known" in fit(gpu_of(unknown)).reason
    assert fit(gpu_of(unknown, memory_bytes=24 * GIB)).fits
    assert fit(gpu_of(unknown, memory_bytes=4 * GIB)).fits is False
    assert gpu_of(T4, memory_bytes=14 * GIB).memory_bytes == 14 * GIB


def test_what_would_help_does_help() -> None:
    gpu = replace(SIX_GB, memory_bytes=5100 * MIB)
    size = weight_bytes(SHAPE, PLAIN)
    ways = ways_to_fit(gpu, SHAPE, PLAIN, max_model_len=4096, utilization=0.90, weights_bytes=size)
    assert "engine.quantization: fp8" in ways
    assert "engine.quantization: awq with a model stored so" in ways
    assert fit(gpu, FP8).fits
    assert ways[-1] == "a GPU with more memory"


def test_a_shorter_context_is_named_where_it_is_enough() -> None:
    size = weight_bytes(SHAPE, PLAIN)
    (first, *_) = ways_to_fit(
        SIX_GB, SHAPE, PLAIN, max_model_len=65_536, utilization=0.90, weights_bytes=size
    )
    name, _, context = first.partition(": ")
    assert name == "engine.max_model_len"
    assert fit(SIX_GB, context=int(context)).fits
    assert fit(SIX_GB, context=int(context) + 256).fits is False


def test_quantized_weights_leave_embeddings_and_output_head_in_16_bits() -> None:
    # 2 * 151936 * 1536 parameters in 2 bytes, the other 1,310,340,608 in one.
    assert weight_bytes(SHAPE, FP8) == 2 * 466_747_392 + 1_310_340_608
    assert weight_bytes(SHAPE, PLAIN) == 3_554_176_000


def test_the_size_of_the_files_wins_unless_vllm_quantizes_them() -> None:
    assert weight_bytes(SHAPE, PLAIN, 123) == 123
    assert weight_bytes(SHAPE, FP8, 123) == weight_bytes(SHAPE, FP8)
    awq = choose_weights(
        None,
        {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}},
        capability=(7, 5),
        known_to_vllm=None,
        gpu="x",
    )
    assert weight_bytes(SHAPE, awq, 456) == 456


@given(st.integers(2, 96), st.integers(0, 64), st.floats(0.1, 0.95), st.integers(256, 131_072))
def test_more_memory_never_holds_less(gib: int, more: int, share: float, context: int) -> None:
    small = fit(GpuSpec("c", gib * GIB, None), share=share, context=context)
    large = fit(GpuSpec("c", (gib + more) * GIB, None), share=share, context=context)
    assert small.kv_tokens is not None
    assert large.kv_tokens is not None
    assert large.kv_tokens >= small.kv_tokens
    assert large.fits or not small.fits


@given(st.integers(2, 96), st.floats(0.1, 0.95), st.integers(256, 65_536))
def test_a_longer_context_never_fits_where_a_shorter_one_does_not(
    gib: int, share: float, context: int
) -> None:
    gpu = GpuSpec("c", gib * GIB, None)
    if fit(gpu, share=share, context=2 * context).fits:
        assert fit(gpu, share=share, context=context).fits
