"""From what a user calls a model to a directory that vLLM loads."""
