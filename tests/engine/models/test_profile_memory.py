"""The memory that deploy/*.yaml and docs/placement.md write out, computed again."""

from pathlib import Path

import pytest

from serve_app.config.engine import EngineConfig
from serve_app.config.tier import tier_args
from serve_app.core.placement.fit import OVERHEAD_BYTES, GpuSpec, gpu_of
from serve_app.core.placement.hardware import GIB, RTX_4090, T4
from serve_app.engine.models.fit_check import CheckedModel, ModelDoesNotFitError, check_model
from serve_app.engine.models.model_size import ModelFiles
from serve_app.local.profiles import DEPLOY_DIR, LEAST_SHARED_BYTES, load_profile
from serve_app.nvidia import MIB
from tests.builders import R1_DISTILL_QWEN_1_5B

SIX_GB = GpuSpec("a GPU of 6 GB", 6144 * MIB, (7, 5))
AWQ = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
PLACEMENT = Path(__file__).parents[3] / "docs" / "placement.md"


def check(gpu: GpuSpec, engine: EngineConfig, **stored: object) -> CheckedModel:
    checked = check_model(engine, ModelFiles(R1_DISTILL_QWEN_1_5B | stored, None), gpu)
    assert checked is not None
    return checked


def engine_of(profile: str, tier: str) -> EngineConfig:
    apps = load_profile(profile)["applications"]
    return tier_args(next(app["args"] for app in apps if app["name"] == tier)).engine


@pytest.mark.parametrize("gpu", [gpu_of(T4), gpu_of(RTX_4090)])
def test_single_gpu_has_its_arithmetic_in_its_comments(gpu: GpuSpec) -> None:
    text = (DEPLOY_DIR / "single-gpu.yaml").read_text()
    chat, reasoning = engine_of("single-gpu", "chat"), engine_of("single-gpu", "reasoning")
    assert chat.gpu_memory_utilization + reasoning.gpu_memory_utilization <= 0.90
    visible = gpu.visible_bytes
    kv_tokens = check(gpu, chat).fit.kv_tokens
    assert visible is not None
    assert kv_tokens is not None
    for figure in (visible, chat.gpu_memory_utilization * visible, OVERHEAD_BYTES):
        assert f"{figure / GIB:.2f}" in text
    assert f"{kv_tokens:,}" in text
    assert f"{kv_tokens // (512 + 1024)}, {kv_tokens // (512 + 2048)}" in text


def test_single_gpu_fits_from_the_size_at_which_it_is_chosen() -> None:
    engine = engine_of("single-gpu", "chat")
    assert check(GpuSpec("c", LEAST_SHARED_BYTES, None), engine).fit.fits
    with pytest.raises(ModelDoesNotFitError):
        check(GpuSpec("c", 10 * GIB, None), engine)


def test_the_small_profile_has_its_arithmetic_in_its_comments() -> None:
    text = (DEPLOY_DIR / "gpu-6gb.yaml").read_text()
    engine = engine_of("gpu-6gb", "chat")
    assert (engine.quantization, engine.gpu_memory_utilization) == ("fp8", 0.85)
    for quantization in (None, "fp8"):
        chosen = engine.model_copy(update={"quantization": quantization})
        kv_tokens = check(SIX_GB, chosen).fit.kv_tokens
        assert f"{kv_tokens:,}" in text


@pytest.mark.parametrize("quantization", [None, "fp8", "awq"])
def test_two_engines_do_not_fit_on_six_gigabytes_whatever_the_quantization(
    quantization: str | None,
) -> None:
    stored = AWQ if quantization == "awq" else {}
    half = EngineConfig.model_validate(
        {"quantization": quantization, "gpu_memory_utilization": 0.44}
    )
    with pytest.raises(ModelDoesNotFitError):
        check(SIX_GB, half, **stored)


@pytest.mark.parametrize("gpu", [gpu_of(T4), gpu_of(RTX_4090), SIX_GB])
@pytest.mark.parametrize("quantization", [None, "fp8", "awq"])
def test_the_page_on_placement_has_the_kv_tokens_of_each_gpu(
    gpu: GpuSpec, quantization: str | None
) -> None:
    stored = AWQ if quantization == "awq" else {}
    engine = EngineConfig.model_validate({"quantization": quantization})
    kv_tokens = check(gpu, engine, **stored).fit.kv_tokens
    (row,) = [line for line in PLACEMENT.read_text().splitlines() if f"| {gpu.name} " in line]
    assert f"| {kv_tokens:,} |" in row
