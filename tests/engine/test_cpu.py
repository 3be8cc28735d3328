"""The CPU's number format follows what it has arithmetic for."""

from pathlib import Path

import pytest

from serve_app.core.hardware import CPU
from serve_app.engine.cpu import this_cpu


@pytest.mark.parametrize(
    ("cpu_info", "dtype"),
    [
        ("processor : 0\nflags : fpu sse2 avx2 fma\n", "float32"),
        ("processor : 0\nflags : fpu avx2 avx512f avx512_bf16\n", CPU.dtype),
        # ARM names its features otherwise, and computes in bfloat16 itself.
        ("processor : 0\nFeatures : fp asimd bf16\n", CPU.dtype),
    ],
)
def test_a_cpu_without_avx_512_computes_in_float32(
    cpu_info: str, dtype: str, tmp_path: Path
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(cpu_info)
    assert this_cpu(file).dtype == dtype


def test_a_machine_that_does_not_tell_is_left_to_vllm(tmp_path: Path) -> None:
    assert this_cpu(tmp_path / "absent") == CPU
