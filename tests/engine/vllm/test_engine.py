"""How the end of vLLM's engine is reported, and what it is started with."""

import unicodedata
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.api.field_rules import MAX_ENTRIES, MAX_TEXTS_CHARS
from serve_app.engine.vllm.engine import BAD_WORDS_TOKENS, VllmEngine


def engine(*, errored: bool) -> VllmEngine:
    fields: dict[str, Any] = dict.fromkeys(VllmEngine.__dataclass_fields__)
    fields["_client"] = SimpleNamespace(errored=errored)
    return VllmEngine(**fields)


async def test_a_dead_engine_is_reported_without_vllms_own_error() -> None:
    """Who reads the error in another process has to import what it is of."""
    await engine(errored=False).check()
    with pytest.raises(RuntimeError, match="dead") as raised:
        await engine(errored=True).check()
    assert type(raised.value) is RuntimeError


def test_the_table_of_bad_words_has_room_for_all_that_the_edge_lets_pass() -> None:
    """A token for each byte, of which NFC makes up to three of one, and one before each word; each
    word with and without a blank."""
    bytes_of_text = 4 * MAX_TEXTS_CHARS["bad_words"]
    assert 2 * (3 * bytes_of_text + MAX_ENTRIES["bad_words"]) <= BAD_WORDS_TOKENS
    assert any(len(unicodedata.normalize("NFC", sign).encode()) == 12 for sign in "\U0001d160")
