"""What an engine on the CPU computes in, and what it does with its memory."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.core.placement.hardware import CPU
from serve_app.engine.vllm.cpu import MALLOC_VARIABLE, on_cores, this_cpu

# Temporaries of a step, as a prefill has them, and how often the kernel had to give pages for them
# in ten steps after the first; small pages (PR_SET_THP_DISABLE), whatever the machine's default is.
STEPS = """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.prctl(41, 1, 0, 0, 0)
def step():
    tensors = [libc.malloc(8 << 20) for _ in range(4)]
    for tensor in tensors:
        ctypes.memset(tensor, 1, 8 << 20)
    for tensor in tensors:
        libc.free(tensor)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
before = faults()
for _ in range(10):
    step()
print(faults() - before)
"""


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_an_engine_on_the_cpu_keeps_its_memory_from_step_to_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _restored_afterwards(monkeypatch)
    monkeypatch.delenv(MALLOC_VARIABLE)
    assert _page_faults() > 10_000

    with on_cores(sorted(os.sched_getaffinity(0)), kv_cache_gib=1):
        assert _page_faults() < 1_000


def test_an_operators_own_tuning_of_glibc_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    _restored_afterwards(monkeypatch)
    monkeypatch.setenv(MALLOC_VARIABLE, "glibc.malloc.check=1")
    with on_cores(sorted(os.sched_getaffinity(0)), kv_cache_gib=1):
        assert os.environ[MALLOC_VARIABLE] == "glibc.malloc.check=1"


def _restored_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (MALLOC_VARIABLE, "VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")


def _page_faults() -> int:
    command = [sys.executable, "-c", STEPS]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
