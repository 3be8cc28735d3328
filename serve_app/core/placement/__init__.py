"""Which nodes and GPUs a model fits on, what it costs there, and why a replica stays pending."""
