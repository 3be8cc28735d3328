"""The resumable streams of one caller: what they take together, and which of them make room."""

from dataclasses import dataclass, field

from serve_app.api.kept_stream import KeptStream


@dataclass(slots=True)
class KeptShare:
    """`ended` in the order in which they ended; all others run."""

    size_bytes: int = 0
    running: dict[str, KeptStream] = field(default_factory=dict[str, KeptStream])
    ended: dict[str, KeptStream] = field(default_factory=dict[str, KeptStream])

    @property
    def count(self) -> int:
        """Running and ended ones."""
        return len(self.running) + len(self.ended)

    @property
    def away(self) -> int:
        """How many run on while no client reads them."""
        return sum(stream.away for stream in self.running.values())

    def resize(self, stream: KeptStream, size_bytes: int) -> bool:
        """Whether a stream may take so much in memory."""
        self.size_bytes -= stream.kept.size_bytes
        fits = stream.kept.resize(size_bytes)
        self.size_bytes += stream.kept.size_bytes
        return fits

    def oldest(self) -> KeptStream | None:
        """The first one that ended, of those that nobody reads now."""
        return next((each for each in self.ended.values() if each.reader is None), None)

    def oldest_read(self) -> KeptStream | None:
        """The first one that ended, of those that a client reads still."""
        return next((each for each in self.ended.values() if each.reader is not None), None)

    def largest(self) -> KeptStream | None:
        """Of those that run: first one that a client reads, which loses nothing but that it could
        come back to it."""
        opened = (each for each in self.running.values() if each.opened)
        return max(opened, key=lambda each: (not each.away, each.kept.size_bytes), default=None)
