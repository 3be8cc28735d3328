"""Two compiled starts of vLLM's engine with one cache, in processes that share an import and no
more: `python -m tests.engine.vllm.compiled_starts CACHE`. Each writes a line of JSON."""

import json
import os
import sys
import time
import traceback
from importlib import import_module
from typing import Any

PROMPTS = 3


def main(cache: str) -> None:
    os.environ |= {
        "VLLM_CACHE_ROOT": cache,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # The engine is in the forked process.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # As vLLM's front end has it, before torch reads it.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    for module in ("vllm.v1.engine.core", "vllm.v1.worker.cpu_worker"):
        import_module(module)
    for _ in range(2):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                sys.stdout.write(f"\n{json.dumps(started())}\n")
                sys.stdout.flush()
                code = 0
            except BaseException:  # noqa: BLE001 - a forked process ends here, whatever it was
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(1)


def started() -> dict[str, Any]:
    """Greedy ids of micro-r1 in 32 bits, what was compiled and what was loaded for them."""
    from vllm import LLM, SamplingParams
    from vllm.compilation.counter import compilation_counter

    from loadtest.studies.micro_r1.problems import held_out_problems
    from serve_app.engine.models.model_dir import MICRO_MODEL, resolve_model

    engine = LLM(
        model=str(resolve_model(MICRO_MODEL)),
        dtype="float32",
        max_model_len=256,
        max_num_seqs=PROMPTS,
        num_gpu_blocks_override=32,
    )
    cpu_s = time.process_time()
    tokenizer = engine.get_tokenizer()
    prompts: Any = [
        {
            "prompt_token_ids": tokenizer.apply_chat_template(
                [{"role": "user", "content": problem.text}],
                add_generation_prompt=True,
                return_dict=False,
            )
        }
        for problem in held_out_problems(1, PROMPTS)
    ]
    answers = engine.generate(prompts, SamplingParams(temperature=0.0, max_tokens=60))
    return {
        "ids": [list(answer.outputs[0].token_ids) for answer in answers],
        "compiled": compilation_counter.num_aot_compiles,
        "loaded": compilation_counter.num_aot_artifacts_loaded,
        "cpu_s": round(cpu_s, 1),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
