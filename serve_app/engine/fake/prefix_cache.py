"""The fake engine's prefix cache: blocks of prompts, the one that was used longest ago goes first.

As vLLM's, but that it keeps nothing of what the engine has made, and gives up no block for those
that decode."""

import hashlib
import itertools
from dataclasses import dataclass

from serve_app.core.prefix.cached_chunks import CachedChunks
from serve_app.core.prefix.prompt_chunks import Chunk

# vLLM's on a GPU.
BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class FakePrefixCache:
    """As many blocks as `blocks` keeps; none where the setting is off."""

    blocks: CachedChunks

    @classmethod
    def of(cls, kv_tokens: int, *, enabled: bool) -> "FakePrefixCache":
        return cls(CachedChunks(kv_tokens // BLOCK_TOKENS if enabled else 0))

    def found_tokens(self, prompt: "PromptBlocks") -> int:
        """Of a prompt; its last token is read in any case."""
        found = self.blocks.found(prompt.hashes) * BLOCK_TOKENS
        return max(0, min(found, prompt.tokens - 1))

    def keep(self, prompt: "PromptBlocks") -> None:
        """It has been read."""
        if self.blocks.most:
            self.blocks.use(prompt.hashes)


@dataclass(frozen=True, slots=True)
class PromptBlocks:
    """A prompt of so many tokens, and the chain of its whole blocks."""

    tokens: int
    hashes: tuple[Chunk, ...] = ()

    @classmethod
    def of(
        cls, prompt: str, tokens: int, token_chars: int, salt: str | None = None
    ) -> "PromptBlocks":
        text, size = prompt.encode(), BLOCK_TOKENS * token_chars
        state = hashlib.blake2b((salt or "").encode(), digest_size=8)
        hashes: list[Chunk] = []
        for start, end in itertools.pairwise(range(0, len(text) + 1, size)):
            state.update(text[start:end])
            hashes.append(state.copy().digest())
        return cls(tokens, tuple(hashes))
