"""Prompts that begin alike share the first hashes, and no others do."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.prefix.prompt_chunks import CHUNK_BYTES, MOST_CHUNKS, prompt_chunks

KEY = b"k" * 32
texts = st.binary(max_size=6 * CHUNK_BYTES)


def shared(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


@given(begin=texts, one=texts, other=texts)
def test_what_two_prompts_share_is_known_to_a_chunk(begin: bytes, one: bytes, other: bytes) -> None:
    a, b = prompt_chunks(KEY, b"", begin + one), prompt_chunks(KEY, b"", begin + other)
    assert shared(a, b) >= len(begin) // CHUNK_BYTES
    same = len(begin) // CHUNK_BYTES * CHUNK_BYTES
    chunk = slice(same, same + CHUNK_BYTES)
    if min(len(a), len(b)) > same // CHUNK_BYTES and (begin + one)[chunk] != (begin + other)[chunk]:
        assert shared(a, b) == same // CHUNK_BYTES


@given(text=texts)
def test_only_whole_chunks_count(text: bytes) -> None:
    assert len(prompt_chunks(KEY, b"", text)) == len(text) // CHUNK_BYTES


def test_of_a_long_prompt_the_begin_counts() -> None:
    assert len(prompt_chunks(KEY, b"", b"x" * CHUNK_BYTES * (MOST_CHUNKS + 9))) == MOST_CHUNKS


def test_another_root_or_key_shares_nothing() -> None:
    text = b"x" * 4 * CHUNK_BYTES
    own = prompt_chunks(KEY, b"client 1", text)
    assert not set(own) & set(prompt_chunks(KEY, b"client 2", text))
    assert not set(own) & set(prompt_chunks(b"z" * 32, b"client 1", text))
