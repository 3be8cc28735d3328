"""Schemas, regular expressions and grammars that no compiler should be given unbounded."""

from collections.abc import Callable, Mapping
from typing import Any

Making = Callable[[], Any]
STRING = {"type": "string"}
BIG = 2**64


def an_object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], **more}


def with_pattern(pattern: str) -> dict[str, Any]:
    return an_object({"a": {"type": "string", "pattern": pattern}})


def nested(depth: int, around: Callable[[Any], Any], inside: Any = STRING) -> Any:
    for _ in range(depth):
        inside = around(inside)
    return inside


def parentheses(count: int) -> str:
    return "(" * count + "a" + ")" * count


def alternatives(count: int) -> str:
    return "|".join(f"word{number}" for number in range(count))


def doubled(levels: int) -> dict[str, Any]:
    """Each definition names the next one twice: small to send, 2^levels to write out."""
    definitions: dict[str, Any] = {
        f"d{level}": {
            "type": "array",
            "prefixItems": [{"$ref": f"#/$defs/d{level + 1}"}] * 2,
            "minItems": 2,
        }
        for level in range(levels)
    }
    return {"$defs": {**definitions, f"d{levels}": STRING}, "$ref": "#/$defs/d0"}


def _five_of_each(depth: int) -> dict[str, Any]:
    if depth == 0:
        return STRING
    return {
        "anyOf": [an_object({f"k{i}": _five_of_each(depth - 1)}) for i in range(5)],
    }


# Those of the issue, which have killed or stalled a replica.
KILLERS: Mapping[str, Making] = {
    "100,000 nested parentheses": lambda: with_pattern(parentheses(100_000)),
    "enum of 50,000": lambda: {"enum": [f"value-{number}" for number in range(50_000)]},
    "anyOf of 5, 6 deep": lambda: _five_of_each(6),
    "3,000 optional properties": lambda: {
        "type": "object",
        "properties": {f"property_{number}": STRING for number in range(3000)},
        "additionalProperties": False,
    },
    "20,000 required properties": lambda: an_object(
        {f"p{number}": STRING for number in range(20_000)}
    ),
    "const of 1 MB": lambda: {"const": "x" * 1_000_000},
    "$ref to itself": lambda: {"$ref": "#"},
    "a to b to a": lambda: {
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        "$ref": "#/$defs/a",
    },
}
SCHEMAS: Mapping[str, Making] = {
    "$ref to nowhere": lambda: {"$ref": "#/$defs/nowhere"},
    "$ref to a file": lambda: {"$ref": "file:///etc/passwd"},
    "$ref to a URL": lambda: {"$ref": "http://127.0.0.1:9/schema.json"},
    "$ref escaped oddly": lambda: {"$defs": {"a/b": STRING}, "$ref": "#/$defs/a%2fb~1%00"},
    "$ref that is a number": lambda: {"$ref": 5},
    "$dynamicRef and $id": lambda: {"$id": "http://127.0.0.1:9/", "$dynamicRef": "#x"},
    "$ref loop of 1,000": lambda: {
        "$defs": {f"d{i}": {"$ref": f"#/$defs/d{(i + 1) % 1000}"} for i in range(1000)},
        "$ref": "#/$defs/d0",
    },
    "anyOf that begins with itself": lambda: {
        "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}},
        "$ref": "#/$defs/a",
    },
    "definitions doubled 30 times": lambda: doubled(30),
    "definitions doubled 12 times": lambda: doubled(12),
    "maximum 2^64": lambda: an_object({"a": {"type": "integer", "maximum": BIG}}),
    "minimum -10^400": lambda: an_object({"a": {"type": "integer", "minimum": -(10**400)}}),
    "enum of big integers": lambda: {"enum": [BIG, -BIG, 10**300]},
    "multipleOf 0": lambda: an_object({"a": {"type": "number", "multipleOf": 0}}),
    "maximum below minimum": lambda: an_object(
        {"a": {"type": "integer", "minimum": 9, "maximum": 1}}
    ),
    "maxLength 10^9": lambda: {"type": "string", "minLength": 10**9, "maxLength": 10**9},
    "maxLength 2^64": lambda: {"type": "string", "maxLength": BIG},
    "maxLength -1": lambda: {"type": "string", "maxLength": -1},
    "minItems 10^7": lambda: {"type": "array", "items": STRING, "minItems": 10**7},
    "minProperties 10^6": lambda: {"type": "object", "minProperties": 10**6},
    "prefixItems of 20,000": lambda: {"type": "array", "prefixItems": [STRING] * 20_000},
    "arrays 400 deep": lambda: nested(400, lambda inner: {"type": "array", "items": inner}),
    "arrays 5,000 deep": lambda: nested_text(5000, '{"type":"array","items":', '{"type":"string"}'),
    "objects 300 deep": lambda: nested(300, lambda inner: an_object({"a": inner})),
    "allOf 400 deep": lambda: nested(400, lambda inner: {"allOf": [inner]}),
    "not 400 deep": lambda: nested(400, lambda inner: {"not": inner}),
    "if, then, else 200 deep": lambda: nested(
        200, lambda inner: {"if": STRING, "then": STRING, "else": inner}
    ),
    "oneOf of 20,000 constants": lambda: {"oneOf": [{"const": number} for number in range(20_000)]},
    "anyOf of 5,000 patterns": lambda: {
        "anyOf": [{"type": "string", "pattern": f"^{number}a+$"} for number in range(5000)]
    },
    "const nested 400 deep": lambda: {"const": nested(400, lambda inner: [inner], 1)},
    "enum with NUL and surrogate": lambda: {"enum": ["\x00", "\ud800", "\udfff\ud800"]},
    "property names with NUL": lambda: an_object({"\x00": STRING, "\ud800": STRING, "": STRING}),
    "property name of 1 MB": lambda: an_object({"n" * 1_000_000: STRING}),
    "2,000 patternProperties": lambda: {
        "type": "object",
        "patternProperties": {f"^{number}(a|b)*$": STRING for number in range(2000)},
    },
    "evil propertyNames": lambda: {
        "type": "object",
        "propertyNames": {"pattern": "((a{1,100}){1,100}){1,100}"},
    },
    "dependentSchemas of 3,000": lambda: {
        "type": "object",
        "dependentSchemas": {f"p{number}": an_object({"q": STRING}) for number in range(3000)},
    },
    "types of 2,000": lambda: {"type": ["string"] * 2000},
    "type of no kind": lambda: {"type": {"type": "string"}},
    "properties that are a list": lambda: {"type": "object", "properties": [STRING]},
    "required that is an object": lambda: {"type": "object", "required": {"a": 1}},
    "items that are a number": lambda: {"type": "array", "items": 5},
    "schema true": lambda: True,
    "schema false": lambda: False,
    "schema that is a list": lambda: [STRING, STRING],
    "schema that is a text": lambda: "not a schema",
    "title of 3 MB": lambda: {"title": "t" * 3_000_000, **STRING},
    "pattern with \\p{L}": lambda: with_pattern(r"^\p{L}{1,5}$"),
    "pattern with look-around": lambda: with_pattern(r"(?=a)(?<!b)(a)\1(?P<n>x)(?#c)"),
    "pattern nested thrice": lambda: with_pattern("((a{1,100}){1,100}){1,100}"),
    "pattern a{1000000000}": lambda: with_pattern("a{1000000000}"),
    "pattern of 100,000 alternatives": lambda: with_pattern(alternatives(100_000)),
    "pattern (((a*)*)*)*b": lambda: with_pattern("(((((a*)*)*)*)*)*b"),
    "pattern that never ends": lambda: with_pattern("("),
    "pattern that is no text": lambda: an_object({"a": {"type": "string", "pattern": 5}}),
    "pattern with NUL and surrogate": lambda: with_pattern("\x00\ud800[\x00-\udfff]"),
}
REGEXES: Mapping[str, Making] = {
    "100,000 alternatives": lambda: alternatives(100_000),
    "100,000 parentheses": lambda: parentheses(100_000),
    "20,000 parentheses": lambda: parentheses(20_000),
    "\\p{L}{1,5}": lambda: r"\p{L}{1,5}",
    "nested repetitions": lambda: "((a{1,100}){1,100}){1,100}",
    "nested stars": lambda: "(((((((a*)*)*)*)*)*)*)*b",
    "a{0,1000000000}": lambda: "a{0,1000000000}",
    "a{2^64}": lambda: f"a{{{BIG}}}",
    "a{5,1}": lambda: "a{5,1}",
    "10,000 optional": lambda: "a?" * 10_000 + "a" * 10_000,
    "look-behind and back reference": lambda: r"(?<=a)(b)\1\k<n>(?P=n)",
    "classes of all": lambda: "[\x00-\U0010ffff]" * 2000,
    "negated classes": lambda: "[^a-z]{1,3000}[^\\s\\S]",
    "range backwards": lambda: "[z-a]",
    "unclosed": lambda: "[(((",
    "a lone backslash": lambda: "\\",
    "NUL": lambda: "\x00+",
    "surrogate": lambda: "\ud800+",
    "empty": lambda: "",
    "2 MB of literal": lambda: "a" * 2_000_000,
    "flags": lambda: "(?i)(?s)(?m)(?x)(?a)" * 1000,
    "a number": lambda: 5,
    "a list": lambda: ["a"],
}
GRAMMARS: Mapping[str, Making] = {
    "left recursion": lambda: 'root ::= root "a" | "a"',
    "a rule that is itself": lambda: "root ::= root",
    "loop of two": lambda: "root ::= a\na ::= b\nb ::= a",
    "star of nothing": lambda: 'root ::= ("")* ("")* root',
    "undefined rule": lambda: "root ::= nowhere",
    "no root": lambda: 'a ::= "b"',
    "empty": lambda: "",
    "50,000 rules in a chain": lambda: (
        "".join(f"r{number} ::= r{number + 1}\n" for number in range(50_000))
        + 'r50000 ::= "a"\nroot ::= r0'
    ),
    "rules doubled 40 times": lambda: (
        "".join(f"r{number} ::= r{number + 1} r{number + 1}\n" for number in range(40))
        + 'r40 ::= "a"\nroot ::= r0'
    ),
    "100,000 alternatives": lambda: (
        "root ::= " + " | ".join(f'"w{number}"' for number in range(100_000))
    ),
    "100,000 parentheses": lambda: "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
    "{0,1000000000}": lambda: 'root ::= "a"{0,1000000000}',
    "nested repetitions": lambda: 'root ::= (("a"{1,100}){1,100}){1,100}',
    "literal of 2 MB": lambda: 'root ::= "' + "a" * 2_000_000 + '"',
    "class of all": lambda: "root ::= [\\x00-\\U0010FFFF]*",
    "class backwards": lambda: "root ::= [z-a]",
    "unclosed text": lambda: 'root ::= "a',
    "bad escape": lambda: 'root ::= "\\q\\x"',
    "NUL": lambda: 'root ::= "\x00"',
    "surrogate": lambda: 'root ::= "\ud800"',
    "Lark, left recursion": lambda: 'start: start "a" | "a"',
    "Lark, import": lambda: "%import common.WORD\n%import .nowhere\nstart: WORD",
    "Lark, import of a file": lambda: '%import "/etc/passwd" (ROOT)\nstart: ROOT',
    "Lark, evil terminal": lambda: "start: A\nA: /((a{1,100}){1,100}){1,100}/",
    "Lark, loop of terminals": lambda: "start: A\nA: B\nB: A",
    "Lark, ignores everything": lambda: "start: A\nA: /a/\n%ignore /(.|\\n)*/",
    "a number": lambda: 5,
    "an object": lambda: {"root": "a"},
}
CHOICES: Mapping[str, Making] = {
    "100,000 choices": lambda: [f"choice-{number}" for number in range(100_000)],
    "one of 2 MB": lambda: ["a" * 2_000_000],
    "1,000 with one beginning": lambda: ["a" * number for number in range(1, 1001)],
    "nothing": lambda: [],
    "one empty": lambda: [""],
    "the same 10,000 times": lambda: ["a"] * 10_000,
    "quotes and backslashes": lambda: ['"', "\\", '\\"', "\n", "]", '" | root'],
    "NUL": lambda: ["\x00"],
    "surrogate": lambda: ["\ud800"],
    "numbers": lambda: [1, 2.5, None, True],
    "nested": lambda: [["a"]],
    "a text": lambda: "abc",
    "an object": lambda: {"a": 1},
}
_TAG = {"begin": "<f>", "schema": STRING, "end": "</f>"}


def _old_tag(structures: Any, triggers: Any) -> dict[str, Any]:
    return {"type": "structural_tag", "structures": structures, "triggers": triggers}


def _new_tag(form: Any) -> dict[str, Any]:
    return {"type": "structural_tag", "format": form}


def _text(value: str) -> dict[str, Any]:
    return {"type": "const_string", "value": value}


TAGS: Mapping[str, Making] = {
    "20,000 structures": lambda: _old_tag(
        [{**_TAG, "begin": f"<f{number}>"} for number in range(20_000)], ["<f"]
    ),
    "a killer inside": lambda: _old_tag(
        [{**_TAG, "schema": with_pattern(parentheses(100_000))}], ["<f"]
    ),
    "no trigger": lambda: _old_tag([_TAG], []),
    "empty trigger": lambda: _old_tag([_TAG], [""]),
    "a trigger that begins none": lambda: _old_tag([_TAG], ["<g"]),
    "20,000 triggers": lambda: _old_tag([_TAG], [f"<{number}" for number in range(20_000)]),
    "empty begin": lambda: _old_tag([{**_TAG, "begin": ""}], ["<f"]),
    "begin of 1 MB": lambda: _old_tag([{**_TAG, "begin": "<f" + "x" * 1_000_000}], ["<f"]),
    "structures that are a text": lambda: _old_tag("x", ["<f"]),
    "triggers that are numbers": lambda: _old_tag([_TAG], [5, None]),
    "no format": lambda: {"type": "structural_tag"},
    "format of no kind": lambda: _new_tag({"type": "nonsense"}),
    "sequence of 50,000": lambda: _new_tag({"type": "sequence", "elements": [_text("a")] * 50_000}),
    "or, 300 deep": lambda: _new_tag(
        nested(300, lambda inner: {"type": "or", "elements": [inner, _text("b")]}, _text("a"))
    ),
    "empty sequence": lambda: _new_tag({"type": "sequence", "elements": []}),
    "5,000 tags": lambda: _new_tag(
        {
            "type": "triggered_tags",
            "triggers": ["<"],
            "tags": [
                {"type": "tag", "begin": f"<{number}", "content": {"type": "any_text"}, "end": ">"}
                for number in range(5000)
            ],
        }
    ),
    "a killer in the format": lambda: _new_tag(
        {"type": "json_schema", "json_schema": with_pattern(parentheses(100_000))}
    ),
    "a regex in the format": lambda: _new_tag({"type": "regex", "pattern": parentheses(100_000)}),
    "a grammar in the format": lambda: _new_tag({"type": "grammar", "grammar": "root ::= root"}),
    "NUL and surrogate": lambda: _new_tag(_text("\x00\ud800")),
}
# Fields beside the structure, which the compiler is given too.
ASIDES: Mapping[str, Making] = {
    "evil whitespace": lambda: {
        "json": an_object({"a": STRING}),
        "whitespace_pattern": "((a{1,100}){1,100}){1,100}",
    },
    "whitespace of 100,000 parentheses": lambda: {
        "json": an_object({"a": STRING}),
        "whitespace_pattern": parentheses(100_000),
    },
    "all kinds at once": lambda: {"json": STRING, "regex": "a", "choice": ["a"], "grammar": "g"},
    "json_object that is a text": lambda: {"json_object": "yes"},
    "json that is broken text": lambda: {"json": '{"type": '},
    "json that is deep text": lambda: {"json": "[" * 100_000},
    "json that is a killer in text": lambda: {
        "json": '{"type":"string","pattern":"' + parentheses(100_000) + '"}'
    },
    "200,000 unknown keys": lambda: {f"k{number}": 1 for number in range(200_000)},
    "nothing": lambda: {},
    "a list": lambda: [],
    "backend chosen": lambda: {"json": STRING, "_backend": "outlines", "_backend_was_auto": True},
    "no fallback": lambda: {"json": STRING, "disable_fallback": "perhaps"},
}


class Text(str):
    """JSON that is written as it stands."""

    __slots__ = ()


def nested_text(depth: int, opening: str, inside: str) -> Text:
    """Deeper than Python's own encoder goes."""
    return Text(opening * depth + inside + "}" * depth)
