"""What an engine's prefix cache still has of the prompts that it was given, as far as that can be
known from outside: the chunks that were used last, as many as its KV pool holds."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from serve_app.core.prefix.prompt_chunks import Chunk

# 8 MB of prompts, about 2 million tokens: more than a pool of one GPU holds of a small model.
MOST_KEPT = 16_384


@dataclass(slots=True)
class CachedChunks:
    """Of one replica. vLLM gives up the block that was used longest ago, and of one prompt the last
    one first; so does this."""

    most: int = MOST_KEPT
    _used: OrderedDict[Chunk, None] = field(default_factory=OrderedDict[Chunk, None])

    def __len__(self) -> int:
        return len(self._used)

    def use(self, chunks: Sequence[Chunk]) -> None:
        """The engine is given a prompt of these."""
        for chunk in reversed(chunks):
            self._used[chunk] = None
            self._used.move_to_end(chunk)
        self.keep_at_most(self.most)

    def keep_at_most(self, most: int) -> None:
        """The pool holds so many, now and from now on."""
        self.most = most
        while len(self._used) > most:
            self._used.popitem(last=False)

    def found(self, chunks: Iterable[Chunk]) -> int:
        """How many of the first of these it has."""
        count = 0
        for chunk in chunks:
            if chunk not in self._used:
                break
            count += 1
        return count

    def all(self) -> tuple[Chunk, ...]:
        """The one first that was used last."""
        return tuple(reversed(self._used))
