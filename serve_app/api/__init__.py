"""The HTTP edge: ASGI applications that know neither Ray nor vLLM."""
