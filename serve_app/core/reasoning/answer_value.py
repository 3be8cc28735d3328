r"""What an answer says, for comparing it with another one: the content of its last \boxed{}.

Text is rewritten and rational numbers are reduced, both within bounds; nothing that a model has
written is evaluated.
"""

import json
import re
from fractions import Fraction

# What is longer is compared as it stands.
MOST_CHARS = 200
_MOST_DIGITS = 30
# Of a box, and of open ones behind the last that is closed, before the search is given up.
_MOST_BOX_CHARS, _MOST_OPEN_BOXES = 2000, 8
_BOXES = ("\\boxed{", "\\fbox{")
_MONEY = re.compile(r"^\\?\$|(?<!\\)\$")
# Commands that only place or size what they stand before.
_LAYOUT = re.compile(
    r"\\(?:left|right|displaystyle|limits|big|Big|bigl|bigr|Bigl|Bigr)(?![a-zA-Z])|\\[!,;: ]|~|"
    r"\\q?quad(?![a-zA-Z])"
)
_FRACTION_NAMES = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_SHORT_FRACTION = re.compile(r"\\frac\s*([0-9])\s*([0-9])")
_SHORT_ROOT = re.compile(r"\\sqrt\s*([0-9a-zA-Z])")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
)
_THOUSANDS = re.compile(r"(?<![\d.,])[0-9]{1,3}(?:(?:,|\{,\})[0-9]{3})+(?![\d,])")
_THIN_THOUSANDS = re.compile(r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))")
# A comma may stand between the members of one.
_LIST = re.compile(r"[(\[]|\\\{")
_ASSIGNED = re.compile(r"^[a-zA-Z]\s*=\s*(?=[^=])")
_DEGREES = re.compile(r"\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})|\\degree(?![a-zA-Z])|°")
_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
# The only words that a number is the same without; an answer with any other one is another answer.
_NO_UNIT = re.compile(rf"^({_NUMBER})\s*(?:\\?%|percent|degrees?)$")
_WITH_UNIT = re.compile(
    r"^([^a-zA-Z]*|.*\})\s*([a-zA-Z]+(?:\s+[a-zA-Z]+)*)\s*(?:\^\s*\{?\s*([0-9])\s*\}?)?$"
)
# Between two numbers, which are not one.
_GAP = re.compile(r"(?<=[0-9.])\s+(?=[0-9.])")
_SPACE = re.compile(r"\s+")
_WHOLE = re.compile(rf"^{_NUMBER}$")
_QUOTIENT = re.compile(r"^([-+]?)(?:\\frac\{([-+]?[0-9]+)\}\{([0-9]+)\}|([0-9]+)/([0-9]+))$")
_MIXED = re.compile(r"^([-+]?)([0-9]+)\\frac\{([0-9]+)\}\{([0-9]+)\}$")


def final_answer(text: str) -> str | None:
    r"""The content of the last \boxed{} that is closed; None where there is none."""
    end = len(text)
    for _ in range(_MOST_OPEN_BOXES):
        start, box = max((text.rfind(box, 0, end), box) for box in _BOXES)
        if start < 0:
            return None
        content = balanced(text, start + len(box))
        if content is not None:
            return content
        end = start
    return None


def exact_value(text: str) -> str:
    """A text that is compared in whole; JSON without regard to its spaces and the order of its
    keys."""
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return text.strip()


def balanced(text: str, start: int = 0) -> str | None:
    """From there to the brace that closes what was opened before it; None while it is open."""
    depth = 1
    at = start
    end = min(len(text), start + _MOST_BOX_CHARS)
    while at < end:
        char = text[at]
        if char == "\\":
            at += 1
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return text[start:at]
        at += 1
    return None


def answer_value(content: str) -> str:
    """The same text for the same answer written in another way: other spaces, commands of layout,
    fractions, thousands commas and trailing zeros. A unit is a part of it, as any word is (`3 AM`,
    `5 million`). Never raises."""
    text = content.strip()
    if len(text) > MOST_CHARS:
        return text
    text = _THIN_THOUSANDS.sub("", _MONEY.sub("", text)).replace("\\!", "")
    text = _LAYOUT.sub(" ", text).strip().rstrip(".").strip()
    text = _ASSIGNED.sub("", _DEGREES.sub("", text)).strip()
    if not _LIST.search(text):
        text = _THOUSANDS.sub(lambda found: found[0].replace("{,}", "").replace(",", ""), text)
    text = _TEXT.sub(lambda found: f" {found[1]} ", text).strip()
    text = _FRACTION_NAMES.sub(r"\\frac", text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    if _SPACE.sub("", text).isalpha():
        return " ".join(text.casefold().split())
    if plain := _NO_UNIT.match(text):
        text = plain[1]
    elif (found := _WITH_UNIT.match(text)) and "/" not in text:  # 1/2 x may be 1/(2x)
        number, words, power = found.groups()
        unit = " ".join(words.split()) + (f"^{power}" if power else "")
        return f"{_reduced(number)} {unit}"
    return _reduced(text)


def _reduced(text: str) -> str:
    """Without spaces but those between two numbers; a rational number in its lowest terms."""
    text = " ".join(_SPACE.sub("", part) for part in _GAP.split(text))
    number = _rational(text)
    return text if number is None else str(number)


def _rational(text: str) -> Fraction | None:
    if sum(map(str.isdigit, text)) > _MOST_DIGITS:
        return None
    if _WHOLE.match(text):
        return Fraction(text)
    if mixed := _MIXED.match(text):
        sign, whole, over, under = mixed.groups()
        value = _quotient(over, under)
        return None if value is None else _signed(sign, int(whole) + value)
    if found := _QUOTIENT.match(text):
        sign, over, under, plain_over, plain_under = found.groups()
        value = _quotient(over or plain_over, under or plain_under)
        return None if value is None else _signed(sign, value)
    return None


def _quotient(over: str, under: str) -> Fraction | None:
    return Fraction(int(over), int(under)) if int(under) else None


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value
