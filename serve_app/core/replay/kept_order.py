"""Which of the kept streams make room for another one."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EndedStream:
    """A stream that has ended and that nobody reads now."""

    stream_id: str
    size_bytes: int


def streams_to_forget(
    ended: Iterable[EndedStream], *, excess_bytes: int, excess_streams: int = 0
) -> tuple[str, ...]:
    """The ids of those that go, of `ended` in the order in which they ended: as few of the oldest
    as make room. Where all together do not, none goes for nothing."""
    chosen: list[str] = []
    for stream in ended:
        if excess_bytes <= 0 and excess_streams <= 0:
            break
        chosen.append(stream.stream_id)
        excess_bytes -= stream.size_bytes
        excess_streams -= 1
    return tuple(chosen) if excess_bytes <= 0 and excess_streams <= 0 else ()
