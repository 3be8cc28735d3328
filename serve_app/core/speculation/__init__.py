"""Whether drafted tokens are worth their place in an engine's step, and how many of them."""
