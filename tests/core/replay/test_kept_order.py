"""As few of the oldest streams as make room go, and none where all of them do not."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.replay.kept_order import EndedStream, streams_to_forget

SIZES = st.lists(st.integers(1, 50), max_size=8)


@given(SIZES, st.integers(-10, 200), st.integers(-2, 9))
def test_the_oldest_go_and_only_as_many_as_make_room(
    sizes: list[int], excess_bytes: int, excess_streams: int
) -> None:
    ended = [EndedStream(str(number), size) for number, size in enumerate(sizes)]
    chosen = streams_to_forget(ended, excess_bytes=excess_bytes, excess_streams=excess_streams)

    def makes_room(streams: int) -> bool:
        return sum(sizes[:streams]) >= excess_bytes and streams >= excess_streams

    assert chosen == tuple(str(number) for number in range(len(chosen)))
    if makes_room(len(sizes)):
        assert makes_room(len(chosen))
        assert not chosen or not makes_room(len(chosen) - 1)
    else:
        assert chosen == ()
