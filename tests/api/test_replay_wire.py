from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.replay_wire import Resumption, journal_mark

COUNTS = st.integers(0, 1 << 40)
RESUMPTIONS = st.builds(Resumption, COUNTS, COUNTS, COUNTS, st.none() | COUNTS, st.booleans())
KEY, ID = b"k" * 32, "request-1"


@given(RESUMPTIONS)
def test_a_resumption_is_read_as_it_was_written(resumption: Resumption) -> None:
    value = resumption.header(KEY, ID).encode()
    assert Resumption.from_header(value, KEY, ID) == resumption


@given(RESUMPTIONS, st.binary(max_size=80))
def test_what_a_client_writes_resumes_nothing(resumption: Resumption, value: bytes) -> None:
    given = resumption.header(KEY, ID).encode()
    assert Resumption.from_header(value, KEY, ID) is None
    assert Resumption.from_header(given, KEY, "another") is None
    assert Resumption.from_header(given, b"x" * 32, ID) is None
    assert Resumption.from_header(given + b"0", KEY, ID) is None


def test_a_journal_is_marked_for_one_request() -> None:
    assert journal_mark(KEY, ID) != journal_mark(KEY, "another")
