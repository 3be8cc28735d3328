"""Where JSON that was written token by token can be cut without turning a value into another one.

`1118` of a number that goes on, half of an escape, or the beginning of a name are none of the
model's own words. A cut is clean behind a whole value, and inside a text that may say anything.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

_WORDS = (b"true", b"false", b"null")
_BLANKS = b" \t\r\n"
_QUOTE, _BACKSLASH, _UNICODE_ESCAPE = b'"'[0], b"\\"[0], b"u"[0]


class Cut(Enum):
    """Of a place between two tokens. `TEXT`: inside a string that is a value, which may be bound to
    a few texts, so that only the grammar knows whether half of it is one."""

    UNCLEAN = "unclean"
    CLEAN = "clean"
    TEXT = "text"


class Place(Enum):
    """What was written last, outside of strings."""

    START = "start"
    OPENED = "opened"
    NAME = "name"
    COLON = "colon"
    COMMA = "comma"
    WORD = "word"
    VALUE = "value"


@dataclass(slots=True)
class JsonLexer:
    """Follows JSON byte by byte, with the tags that may stand around it, as around a tool call:
    outside of JSON only what follows a tag opens it."""

    in_string: bool = False
    place: Place = Place.START
    _is_name: bool = False
    # Bytes that the escape or the character still wants, and the digits of a `\\u` escape.
    _wanted: int = 0
    _digits: bytearray = field(default_factory=bytearray)
    # A surrogate pair is written as two escapes.
    _wants_second: bool = False
    _open: bytearray = field(default_factory=bytearray)
    _word: bytearray = field(default_factory=bytearray)
    _has_tags: bool = False

    def copy(self) -> "JsonLexer":
        """A lexer of its own at the same place."""
        return JsonLexer(
            self.in_string,
            self.place,
            self._is_name,
            self._wanted,
            self._digits.copy(),
            self._wants_second,
            self._open.copy(),
            self._word.copy(),
            self._has_tags,
        )

    @property
    def cut(self) -> Cut:
        """Of the place behind what was fed."""
        if not self.in_string:
            clean = self.place in (Place.START, Place.OPENED, Place.VALUE) or self._between_tags
            return Cut.CLEAN if clean or bytes(self._word) in _WORDS else Cut.UNCLEAN
        if self._is_name or self._wanted or self._wants_second:
            return Cut.UNCLEAN
        return Cut.TEXT

    @property
    def _between_tags(self) -> bool:
        return self._has_tags and not self._open

    def feed(self, written: Iterable[int]) -> None:
        """The next bytes."""
        for byte in written:
            if self.in_string:
                self._feed_string(byte)
            else:
                self._feed_outside(byte)

    def _feed_string(self, byte: int) -> None:
        if self._wanted:
            self._feed_wanted(byte)
        elif byte == _BACKSLASH:
            self._wanted = 1
        elif byte == _QUOTE:
            self.in_string = self._wants_second = False
            self.place = Place.NAME if self._is_name else Place.VALUE
        elif byte >= 0xC0:
            self._wanted = 1 if byte < 0xE0 else 2 if byte < 0xF0 else 3

    def _feed_wanted(self, byte: int) -> None:
        """A byte that belongs to an escape or to a character of several bytes."""
        self._wanted -= 1
        if byte >= 0x80:
            return
        if self._digits or (byte == _UNICODE_ESCAPE and not self._wanted):
            self._digits.append(byte)
            # `u` itself and four digits.
            self._wanted = 5 - len(self._digits)
            if not self._wanted:
                digits, self._digits = bytes(self._digits[1:]).lower(), bytearray()
                self._wants_second = digits[:1] == b"d" and digits[1:2] in (b"8", b"9", b"a", b"b")

    def _feed_outside(self, byte: int) -> None:
        sign = chr(byte)
        self._has_tags |= sign == "<" and not self._open
        if byte in _BLANKS:
            self._end_word()
            return
        if self._between_tags and not (sign in "{[" and bytes(self._word[-1:]) in (b">", b"")):
            # Of a text it is enough to know its last sign.
            self._word[:], self.place = bytes((byte,)), Place.WORD
            return
        if sign in '{[}]:,"':
            self._word.clear()
        if sign == '"':
            inside = bytes(self._open[-1:]) == b"{"
            self.in_string = True
            self._is_name = inside and self.place in (Place.OPENED, Place.COMMA)
        elif sign in "{[":
            self._open.append(byte)
            self.place = Place.OPENED
        elif sign in "}]":
            del self._open[-1:]
            self.place = Place.VALUE
        elif sign in ":,":
            self.place = Place.COLON if sign == ":" else Place.COMMA
        else:
            self._word.append(byte)
            self.place = Place.WORD

    def _end_word(self) -> None:
        """Behind a blank a word is whole, if it stands inside of JSON."""
        if self.place is Place.WORD and self._open:
            self.place = Place.VALUE
            self._word.clear()


def lexers_between(pieces: Sequence[bytes]) -> list[JsonLexer]:
    """Of tokens with these texts, the lexer before each one and behind the last."""
    lexer = JsonLexer()
    found = [lexer.copy()]
    for piece in pieces:
        lexer.feed(piece)
        found.append(lexer.copy())
    return found
