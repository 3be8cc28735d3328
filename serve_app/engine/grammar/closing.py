"""Ends what a grammar binds in as few tokens as can be found, and says where an answer that has met
its limit is left for it.

How an answer is closed:

1. From its last token back, the last place is looked for that leaves no value half-written
   (`core/structure/json_cuts.py`) and from which an end fits into what is left of the limit.
2. An end is chosen sign by sign: what closes comes first, then what is soonest closed again. Where
   a name or a bound text has several ways on, each is tried to its end.
3. Its text is then written in the fewest tokens of the vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.core.structure.json_cuts import Cut, JsonLexer, Place, lexers_between

# An end that is longer is not looked for further.
LONGEST_TOKENS = 512
# Signs, of which a token has several.
LONGEST_SIGNS = 4 * LONGEST_TOKENS
# Signs up to which several ways are tried in one grammar, and ways that are tried at one place.
MOST_TRIED_SIGNS, MOST_WAYS = 4_000, 8
# Places of one answer from which an end is looked for.
MOST_PLACES = 48
LONGEST_TOKEN_BYTES = 32
# A text that may go on with so many letters of the alphabet is bound to no list of texts.
FREE_LETTERS = 20
CALL_BEGINS = b"<tool_call>"
_BEFORE_OTHERS = {
    Place.START: 'n"',
    Place.OPENED: '}]n"',
    Place.COLON: 'n"',
    Place.COMMA: 'n"',
}


class DeadEndError(Exception):
    """The grammar allows nothing, not even an end: the engine would fail there."""


@dataclass(frozen=True, slots=True)
class Closed:
    """`kept` tokens of the answer and `ids` that end it. `whole`: it was at its end already."""

    kept: int
    ids: list[int]
    whole: bool = False


class Vocabulary:
    """What single signs and longer texts are as tokens, of xgrammar's TokenizerInfo."""

    def __init__(self, info: Any) -> None:
        import numpy as np

        self.words = (info.vocab_size + 31) // 32
        self.stops = list(info.stop_token_ids)
        self.texts: list[bytes] = info.decoded_vocab
        special = {*info.special_token_ids, *self.stops}
        usable = [(i, text) for i, text in enumerate(self.texts) if i not in special]
        self.signs = {i: text[0] for i, text in usable if len(text) == 1 and text[0] < 0x80}
        ids = np.array([*self.signs], dtype=np.int64)
        self._sign_ids, self._sign_words, self._sign_bits = ids, ids >> 5, ids & 31
        self._ids = {text: i for i, text in usable if 0 < len(text) <= LONGEST_TOKEN_BYTES}

    def allowed_signs(self, mask: Any) -> list[tuple[int, str]]:
        """The tokens of single signs that a mask allows, and what they are."""
        allowed = (mask[self._sign_words] >> self._sign_bits) & 1
        return [(i, chr(self.signs[i])) for i in self._sign_ids[allowed == 1].tolist()]

    def fewest(self, text: bytes) -> list[int] | None:
        """The fewest tokens that write a text; None where there are none."""
        best: list[tuple[int, int] | None] = [(0, -1)]
        for end in range(1, len(text) + 1):
            found: tuple[int, int] | None = None
            for begin in range(max(0, end - LONGEST_TOKEN_BYTES), end):
                before = best[begin]
                if before is None or (found is not None and before[0] + 1 >= found[0]):
                    continue
                if text[begin:end] in self._ids:
                    found = (before[0] + 1, begin)
            best.append(found)
        if best[-1] is None:
            return None
        ids: list[int] = []
        at = len(text)
        while at and (step := best[at]) is not None:
            ids.append(self._ids[text[step[1] : at]])
            at = step[1]
        return ids[::-1]


class Endings:
    """Looks for ends within one grammar. `mask` says which tokens a matcher allows; `timed` is told
    of each step and says when it has become too slow."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        mask: Callable[[Any], Any],
        timed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._vocabulary, self._mask, self._timed = vocabulary, mask, timed
        self._left_signs = MOST_TRIED_SIGNS

    def shortest(
        self, matcher: Any, lexer: JsonLexer | None = None, most_signs: int = LONGEST_SIGNS
    ) -> list[int] | None:
        """Ids of the shortest end that is found from here; None where it is longer than is looked
        for. The matcher stays where it is."""
        ids = self._end(matcher.fork(), (lexer or JsonLexer()).copy(), most_signs, tries=True)
        if ids is None:
            return None
        fewest = self._vocabulary.fewest(b"".join(self._vocabulary.texts[i] for i in ids))
        if fewest is not None and len(fewest) < len(ids) and _accepts(matcher, fewest):
            ids = fewest
        return ids if len(ids) <= LONGEST_TOKENS else None

    def close(
        self, matcher: Any, answer: Sequence[int], *, least_kept: int, most_tokens: int
    ) -> Closed | None:
        """What becomes of an answer, the matcher behind it, that may have `most_tokens` in all and
        of which `least_kept` cannot be taken back. None where nothing fits."""
        if self._only_stops(matcher):
            return Closed(len(answer), [], whole=True)
        lexers = self._lexers(answer)
        places = range(min(least_kept, len(answer)), len(answer) + 1)
        clean = [at for at in places if lexers[at].cut is not Cut.UNCLEAN]
        search = _Search(self, matcher, lexers, most_tokens)
        return search.last_of(clean) or search.last_of(list(places), unclean=True)

    def may_end_text(self, matcher: Any) -> bool:
        """Whether a text may end here though it may go on with nearly any letter, or can go on in
        one way only: then its end makes no other text of it, as of those that are among a few."""
        at, vocabulary = matcher.fork(), self._vocabulary
        for _ in range(LONGEST_TOKENS):
            allowed = vocabulary.allowed_signs(self._mask(at))
            if len(allowed) != 1:
                signs = [sign for _, sign in allowed]
                return '"' in signs and sum(map(str.isalpha, signs)) >= FREE_LETTERS
            if allowed[0][1] == '"' or not at.accept_token(allowed[0][0]):
                return True
        return False

    def _only_stops(self, matcher: Any) -> bool:
        mask = self._mask(matcher)
        if not any(_has(mask, stop) for stop in self._vocabulary.stops):
            return False
        others = mask.copy()
        clear(others, self._vocabulary.stops)
        return not others.any()

    def _lexers(self, answer: Sequence[int]) -> list[JsonLexer]:
        """Before and behind each token. What a model says before its calls is no JSON."""
        pieces = [self._vocabulary.texts[i] for i in answer]
        said = b"".join(pieces).find(CALL_BEGINS)
        before = 0
        while said > 0 and before < len(pieces) and said >= len(pieces[before]):
            said -= len(pieces[before])
            before += 1
        return [JsonLexer() for _ in range(before)] + lexers_between(pieces[before:])

    def _end(
        self, matcher: Any, lexer: JsonLexer, most_signs: int, *, tries: bool
    ) -> list[int] | None:
        """Ids sign by sign; with `tries` each way is tried where there are several."""
        ids: list[int] = []
        while len(ids) <= most_signs:
            if lexer.in_string:
                ids += self._forced(matcher, lexer)
            mask = self._mask(matcher)
            if any(_has(mask, stop) for stop in self._vocabulary.stops):
                return ids
            ways = self._ways(mask, lexer)
            if not ways:
                return None
            chosen = ways[0]
            if tries and len(ways) > 1 and self._left_signs > 0:
                chosen = self._shortest_way(matcher, lexer, ways, most_signs - len(ids))
            if not matcher.accept_token(chosen):
                return None
            lexer.feed(self._vocabulary.texts[chosen])
            ids.append(chosen)
            self._left_signs -= 1
            if self._timed():
                return None
        return None

    def _forced(self, matcher: Any, lexer: JsonLexer) -> list[int]:
        """What can only follow inside a name or a bound text, at once: a name may be long."""
        text = matcher.find_jump_forward_string().encode()
        taken: list[int] = []
        for token in self._vocabulary.fewest(text) or ():
            if not matcher.accept_token(token):
                break
            lexer.feed(self._vocabulary.texts[token])
            taken.append(token)
        return taken

    def _ways(self, mask: Any, lexer: JsonLexer) -> list[int]:
        """The tokens to go on with, the first one first; several only where none of them closes."""
        signs = self._vocabulary.allowed_signs(mask)
        if not signs:
            first = _first(mask)
            return [] if first is None else [first]
        ranked = sorted(signs, key=lambda one: (_rank(one[1], lexer), one[1]))
        letters = sum(sign.isalpha() for _, sign in signs)
        if not lexer.in_string or ranked[0][1] == '"' or letters >= FREE_LETTERS:
            return [ranked[0][0]]
        return [i for i, _ in ranked[:MOST_WAYS]]

    def _shortest_way(self, matcher: Any, lexer: JsonLexer, ways: list[int], most: int) -> int:
        chosen, fewest = ways[0], most
        for way in ways:
            tried, after = matcher.fork(), lexer.copy()
            if not tried.accept_token(way):
                continue
            after.feed(self._vocabulary.texts[way])
            end = self._end(tried, after, fewest - 1, tries=False)
            if end is not None and len(end) < fewest:
                chosen, fewest = way, len(end)
        return chosen


@dataclass(slots=True)
class _Search:
    """Of one answer, for the last place from which an end fits."""

    endings: Endings
    matcher: Any
    lexers: list[JsonLexer]
    most_tokens: int
    left_places: int = MOST_PLACES

    def last_of(self, places: list[int], *, unclean: bool = False) -> Closed | None:
        """An end is about as long a few tokens earlier, so that its length says how far to go back;
        between the first place that fits and the one that did not, the last one is then found."""
        found, beyond = None, len(places)
        at = beyond - 1
        while at >= 0 and self.left_places > 0:
            ids = self._end_from(places[at], unclean=unclean)
            if ids is not None and places[at] + len(ids) <= self.most_tokens:
                found = Closed(places[at], ids)
                break
            beyond = at
            wanted = places[at] - 1 if ids is None else self.most_tokens - len(ids)
            earlier = [i for i in range(at) if places[i] <= wanted]
            # Where nothing stands so far back, a short end may stand nearer.
            at = earlier[-1] if earlier else at - 1
        while found is not None and beyond - at > 1 and self.left_places > 0:
            middle = (at + beyond) // 2
            ids = self._end_from(places[middle], unclean=unclean)
            if ids is not None and places[middle] + len(ids) <= self.most_tokens:
                found, at = Closed(places[middle], ids), middle
            else:
                beyond = middle
        return found

    def _end_from(self, place: int, *, unclean: bool) -> list[int] | None:
        self.left_places -= 1
        at, lexer = self.matcher.fork(), self.lexers[place]
        at.rollback(len(self.lexers) - 1 - place)
        if not unclean and lexer.cut is Cut.TEXT and not self.endings.may_end_text(at):
            return None
        try:
            return self.endings.shortest(at, lexer)
        except DeadEndError:
            return None


def clear(mask: Any, tokens: Sequence[int]) -> None:
    """Take tokens out of a mask."""
    bits = mask.view("uint32")
    for token in tokens:
        bits[token >> 5] &= 0xFFFFFFFF ^ (1 << (token & 31))


def bits_of(word: int) -> list[int]:
    """The bits that are set in a word of a mask."""
    return [bit for bit in range(32) if (word >> bit) & 1]


def _accepts(matcher: Any, ids: Sequence[int]) -> bool:
    tried = matcher.fork()
    return all(tried.accept_token(i) for i in ids)


def _rank(sign: str, lexer: JsonLexer) -> int:
    """The lower, the sooner what is open has ended. A value that is missing is null where that is
    allowed, else an empty text, else a number; blanks end nothing. A text that may not be empty has
    letters and digits: xgrammar lets signs into it that JSON does not know."""
    if lexer.in_string:
        return 0 if sign == '"' else 1 if sign.isalnum() else 2 if sign.isprintable() else 3
    if sign.isspace():
        return 1000
    preferred = _BEFORE_OTHERS.get(lexer.place, "}],")
    if sign in preferred:
        return preferred.index(sign)
    if sign.isdigit():
        return 10 + ord(sign)
    return 100 + '}],"-tf['.find(sign) if sign in '}],"-tf[' else 200 + ord(sign)


def _has(mask: Any, token: int) -> bool:
    return bool((int(mask[token >> 5]) >> (token & 31)) & 1)


def _first(mask: Any) -> int | None:
    words = mask.nonzero()[0]
    return None if not len(words) else int(words[0]) * 32 + bits_of(int(mask[words[0]]))[0]
