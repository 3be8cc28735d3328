"""What a replica's prefix cache still has: the chunks used last, and of a prompt the first ones."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.prefix.cached_chunks import CachedChunks

prompts = st.lists(st.binary(min_size=1, max_size=1), max_size=8, unique=True).map(
    # Each hash stands for all before it too.
    lambda parts: [b"".join(parts[: end + 1]) for end in range(len(parts))]
)


@given(used=st.lists(prompts, max_size=30), most=st.integers(1, 20))
def test_it_never_has_more_than_the_pool_holds(used: list[list[bytes]], most: int) -> None:
    cached = CachedChunks(most)
    for chunks in used:
        cached.use(chunks)
        assert len(cached) <= most
        assert cached.found(chunks) == min(len(chunks), most)


@given(used=st.lists(prompts, max_size=30), most=st.integers(1, 20))
def test_whatever_it_has_it_has_the_begin_of(used: list[list[bytes]], most: int) -> None:
    cached = CachedChunks(most)
    for chunks in used:
        cached.use(chunks)
    for chunks in used:
        has = [chunk in cached.all() for chunk in chunks]
        assert has == sorted(has, reverse=True)


def test_what_was_used_longest_ago_goes_first_and_of_it_the_end() -> None:
    cached = CachedChunks(4)
    cached.use([b"a", b"ab", b"abc"])
    cached.use([b"x", b"xy"])
    assert cached.found([b"a", b"ab", b"abc"]) == 2
    assert cached.found([b"x", b"xy"]) == 2
    assert cached.all() == (b"x", b"xy", b"a", b"ab")


def test_a_smaller_pool_keeps_the_newest() -> None:
    cached = CachedChunks(9)
    cached.use([b"a", b"ab"])
    cached.use([b"x"])
    cached.keep_at_most(1)
    assert cached.all() == (b"x",)
