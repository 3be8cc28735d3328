"""vLLM inside the replica's process: the only package that imports vllm, and knows its names.

- `engine.py`: starts the engine and builds vLLM's application; `extend_vllm` is the plug-in that
  vLLM calls in each of its processes
- `patches/`: what is changed of vLLM, one a file, with versions and a condition for removal
- `fast_path.py`: what is left out of vLLM's application for each request and token
- `stats.py`, `first_tokens.py`: what vLLM reports of its steps, and which prompts it has read
- `stop_scope.py`: where a client's stops count, which the patches read
- `worker_extension.py`, `compilation.py`: what the engine's process reports; where compiled code is
- `cpu.py`, `quantizations.py`: what the installed vLLM computes on and can read, without an import
- `types.py`: vLLM's types for those who handle its objects (`guarded_call.py`, `grammar/`)

tests/test_vllm_names.py finds every name that is used here in vLLM's source, and the type checker
every attribute.
"""
