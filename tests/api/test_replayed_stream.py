"""What of a stream a client gets, and what is kept of it to go on with."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.replayed_stream import ReplayedStream
from serve_app.core.replay.journal import read
from tests.api.scripted_tier import Generation

EVENT = st.sampled_from([b"data: a\n\n", b"event: x\ndata: {}\n\n", b"data: :j 0 0 1\n\n"])
GENERATIONS = st.lists(st.lists(EVENT, max_size=3), min_size=1, max_size=8).map(Generation)


def fed(stream: ReplayedStream, data: bytes, cuts: list[int]) -> bytes:
    """What comes of `data` in pieces that end at `cuts`."""
    text, begin = b"", 0
    for cut in [*sorted(cuts), len(data)]:
        text += stream.feed(data[begin:cut])
        begin = cut
    return text


@given(GENERATIONS, st.data())
def test_events_pass_whole_and_the_journal_ends_with_the_last_of_them(
    generation: Generation, data: st.DataObject
) -> None:
    sent = b"".join(generation.chunks())
    end = data.draw(st.integers(0, len(sent)))
    cuts = data.draw(st.lists(st.integers(0, end), max_size=5))
    stream = ReplayedStream(journaled=True)
    text = fed(stream, sent[:end], cuts)
    assert text == b"".join(generation.events[: stream.events])
    steps = read(stream.journal.decode())
    assert list(steps) == generation.steps(0, len(steps))
    # Replayed, these steps come to the events that the client has, and to the rest of the chunk.
    replayed = b"".join(b"".join(events) for events in generation.events_of_steps[: len(steps)])
    assert replayed.startswith(text)
    sent_elsewhere = b"".join(generation.chunks(len(steps), stream.events))
    stream.restart()
    assert text + stream.feed(sent_elsewhere) == generation.text
    assert list(read(stream.journal.decode())) == generation.steps(0, _steps_sent(generation))


def _steps_sent(generation: Generation) -> int:
    """Steps behind the last event are sent with none."""
    return max((at for at, events in enumerate(generation.events_of_steps, 1) if events), default=0)


def test_comments_of_the_replica_stay_here_and_heartbeats_pass() -> None:
    stream = ReplayedStream(journaled=True)
    text = stream.feed(b": waiting, 2 ahead\n\n:j 0 0 5\n\ndata: 1\n\n:lost engine\n\ndata: 2\n\n")
    assert text == b": waiting, 2 ahead\n\ndata: 1\n\n"
    assert (stream.events, stream.lost, bytes(stream.journal)) == (1, "engine", b"0 0 5")


def test_what_follows_an_offer_is_kept_until_it_is_known_who_goes_on() -> None:
    stream = ReplayedStream(journaled=True)
    assert (
        stream.feed(b":j 0 0 5\n\ndata: 1\n\n:offer\n\n:j 0 0 6\n\ndata: 2\n\nda") == b"data: 1\n\n"
    )
    assert (stream.offered, stream.events, bytes(stream.journal)) == (True, 1, b"0 0 5")
    assert stream.feed(b"") == b"data: 2\n\n"
    assert (stream.offered, bytes(stream.journal)) == (False, b"0 0 5;0 0 6")
    assert stream.feed(b"ta: 3\n\n") == b"data: 3\n\n"


def test_the_first_event_gives_the_time_of_all() -> None:
    for first, created_s in ((b'data: {"created":7,"x":1}\n\n', 7), (b"data: {}\n\n", None)):
        stream = ReplayedStream(journaled=True)
        stream.feed(first + b'data: {"created":8}\n\n')
        assert stream.resumption(1, only_with_room=False).created_s == created_s
