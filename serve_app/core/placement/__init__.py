"""Which nodes and GPUs a model fits on, what it costs there, and why a replica stays pending.

- `hardware`: what each type of GPU can do, and the sizes of a model
- `quantization`, `fit`: the weights that a GPU can run, and whether they leave room for a KV cache
- `engine_args`: vLLM's command line for a model on a GPU
- `token_cost`: what a token costs on each type of GPU, and the cheapest order
- `labels`, `nodes`: Ray's label selectors, nodes, and what deployments request of them
- `diagnosis`, `pending_reasons`: where replicas go, and why one cannot be placed
"""
