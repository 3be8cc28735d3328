"""Real vLLM with the small reasoning model that is made here."""
