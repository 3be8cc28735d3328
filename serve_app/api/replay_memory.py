"""The memory that all streams of a gateway take for what they would need to go on elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class ReplayMemory:
    """`kept_bytes` of at most `limit_bytes` are in use now."""

    limit_bytes: int
    kept_bytes: int = 0

    @contextmanager
    def keeping(self) -> "Iterator[Kept]":
        """What one stream takes while the block runs; nothing at first."""
        kept = Kept(self)
        try:
            yield kept
        finally:
            self.kept_bytes -= kept.size_bytes


@dataclass(slots=True)
class Kept:
    memory: ReplayMemory
    size_bytes: int = 0

    def resize(self, size_bytes: int) -> bool:
        """Whether there is room for so much; else it takes nothing any more."""
        memory = self.memory
        others_bytes = memory.kept_bytes - self.size_bytes
        fits = others_bytes + size_bytes <= memory.limit_bytes
        self.size_bytes = size_bytes if fits else 0
        memory.kept_bytes = others_bytes + self.size_bytes
        return fits
