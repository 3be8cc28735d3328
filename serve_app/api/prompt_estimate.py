"""How many tokens a prompt has, before the engine has counted them: from the length of its body.

To tokenize it here would be the engine's work twice, on the event loop. The error of an estimate
lasts only until its request runs, for then the engine counts.
"""

from dataclasses import dataclass

# About the last fifty requests say what a token takes; before the first, a usual vocabulary does.
NEWEST_KEPT = 0.98
BYTES_PER_TOKEN = 4.0
DERIVED_TOKENS = 512.0


@dataclass(slots=True)
class PromptEstimate:
    """Tokens of prompts and bytes of their requests, as sums that forget."""

    _tokens: float = DERIVED_TOKENS
    _bytes: float = DERIVED_TOKENS * BYTES_PER_TOKEN

    def tokens(self, body_bytes: int) -> float:
        """Of all prompts of a request."""
        return body_bytes * self._tokens / self._bytes

    def observe(self, *, body_bytes: int, tokens: float) -> None:
        """The engine has counted the prompts of a request."""
        self._tokens = self._tokens * NEWEST_KEPT + tokens
        self._bytes = self._bytes * NEWEST_KEPT + body_bytes
