"""The CPU engine dies of a request with a seed whose prompt it reads in parts."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from serve_app.engine.vllm.patches.patch import Patch, replace

if TYPE_CHECKING:
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner


def reseeded_on_cpu(keep_books: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM takes back the sample of a prompt that is only partly read by the offset of the
    request's generator, which a CPU's has not. Nothing has been sampled for good then, so the
    generator begins anew."""

    def keep_books_and_reseed(runner: "CPUModelRunner", *args: Any, **options: Any) -> Any:
        batch = runner.input_batch
        partly_read = runner.discard_request_mask.np[: batch.num_reqs].nonzero()[0]
        aside = {index: batch.generators.pop(index, None) for index in map(int, partly_read)}
        try:
            return keep_books(runner, *args, **options)
        finally:
            for index, generator in aside.items():
                if generator is not None:
                    batch.generators[index] = generator.manual_seed(generator.initial_seed())

    return keep_books_and_reseed


def _install() -> None:
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    replace(CPUModelRunner, "_bookkeeping_sync", reseeded_on_cpu)


_RUNNER = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"
PATCH = Patch(
    name="seeded_prefill",
    versions=">=0.32,<0.33",
    upstream="vllm/v1/worker/gpu_model_runner.py, GPUModelRunner._bookkeeping_sync (set_offset)",
    remove_when="_bookkeeping_sync rewinds a generator of the CPU, or the CPU runs model runner V2",
    apply=_install,
    replaces=("vllm.v1.worker.cpu_model_runner:CPUModelRunner._bookkeeping_sync",),
    relies_on=(
        f"{_RUNNER}._bookkeeping_sync",
        f"{_RUNNER}.input_batch",
        f"{_RUNNER}.discard_request_mask",
        "vllm.v1.worker.gpu_input_batch:InputBatch.generators",
        "vllm.v1.worker.gpu_input_batch:InputBatch.num_reqs",
    ),
)
