"""vLLM inside the replica process. Nothing outside this package imports vLLM."""
