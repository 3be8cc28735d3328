"""Bodies that are too large, too deep, or no JSON, on every route that takes one."""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.hostile.attack import CHAT, REASONING, USER, Attack, Target, asks
from tests.hostile.wire import JSON, as_json, head, post

MB = 1_000_000
# `max_body_bytes`, and a little less.
LIMIT_BYTES = 4 * 1024 * 1024
BELOW = LIMIT_BYTES - 2000
GENERATING = (
    CHAT,
    f"{CHAT}/v1/chat/completions",
    f"{CHAT}/v1/completions",
    f"{CHAT}/v1/responses",
    f"{CHAT}/v1/messages",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
COUNTING = (f"{CHAT}/tokenize", f"{CHAT}/detokenize", f"{CHAT}/v1/messages/count_tokens")
TAKING = (*GENERATING, *COUNTING)


def words(size: int) -> str:
    return "a " * (size // 2)


def asking(text: str, path: str) -> bytes:
    """A body with this text as its prompt, for any route."""
    if path.endswith("/responses"):
        payload: dict[str, object] = {"input": text, "max_output_tokens": 1}
    elif path.endswith("completions") and "chat" not in path.removeprefix(CHAT):
        payload = {"prompt": text, "max_tokens": 1}
    elif path.endswith("/tokenize"):
        payload = {"prompt": text}
    elif path.endswith("/detokenize"):
        payload = {"tokens": [5] * (len(text) // 3)}
    else:
        payload = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
    return as_json({"model": "chat", **payload})


def _sized(path: str, size: int, wanted: tuple[int, ...], name: str) -> Attack:
    return Attack(
        f"{name} to {path}", path, lambda: asking(words(size), path), limit_s=20, wanted=wanted
    )


def _large() -> Iterator[Attack]:
    for path in TAKING:
        yield _sized(path, 30 * MB, (413,), "30 MB")
        yield _sized(path, 6 * MB, (413,), "6 MB")
        # No context holds so much, or a tokenizer's answer may be as long as it likes.
        yield _sized(path, BELOW - 100, (400, 413), "just below the limit")
        yield _sized(path, 300_000, (200, 400, 413), "300 KB")


def _chunked(path: str, size: int) -> Iterator[bytes]:
    yield head("POST", path, (JSON, (b"transfer-encoding", b"chunked")))
    body = asking(words(size), path)
    for start in range(0, len(body), 65536):
        part = body[start : start + 65536]
        yield b"%x\r\n%b\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


def _chunks() -> Iterator[Attack]:
    for path in TAKING:
        yield Attack(
            f"30 MB without a length to {path}",
            path,
            raw=lambda path=path: _chunked(path, 30 * MB),
            wanted=(413,),
            limit_s=20,
        )
    yield Attack(
        "one byte a chunk",
        CHAT,
        raw=lambda: [
            head("POST", CHAT, (JSON, (b"transfer-encoding", b"chunked"))),
            b"".join(b"1\r\n%c\r\n" % byte for byte in asking("hi", CHAT)) + b"0\r\n\r\n",
        ],
        wanted=(200,),
    )


def _with(field: str, value: object, path: str = CHAT) -> Callable[[], bytes]:
    return lambda: json.dumps({"messages": USER, "max_tokens": 1, field: value}).encode()


def _text(text: str) -> Callable[[], bytes]:
    """A body of which `@` is written as it stands."""
    return lambda: (
        b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":1,"x":%b}'
        % (text.encode("utf-8", "surrogatepass"))
    )


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PART = {"type": "text", "text": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}
MANY: Mapping[str, Callable[[], bytes]] = {
    "100,000 messages": lambda: as_json({"messages": USER * 90_000, "max_tokens": 1}),
    "100,000 empty messages": lambda: as_json({"messages": [{}] * 100_000, "max_tokens": 1}),
    "1,000,000 nulls as messages": lambda: b'{"messages":[%b null]}' % (b"null," * 800_000),
    "100,000 parts": lambda: as_json(
        {"messages": [{"role": "user", "content": [PART] * 100_000}], "max_tokens": 1}
    ),
    "40,000 images": lambda: as_json(
        {"messages": [{"role": "user", "content": [IMAGE] * 40_000}], "max_tokens": 1}
    ),
    "30,000 tool calls": lambda: as_json(
        {"messages": [*USER, {"role": "assistant", "tool_calls": [CALL] * 30_000}]}
    ),
    "100,000 stop strings": _with("stop", [f"s{number}" for number in range(100_000)]),
    "one stop string of 3 MB": _with("stop", "s" * 3 * MB),
    "40,000 tools": _with("tools", [TOOL] * 40_000),
    "a tool described in 3 MB": _with(
        "tools", [{"type": "function", "function": {"name": "f", "description": "d" * 3 * MB}}]
    ),
    "logit_bias of 100,000": _with("logit_bias", {str(number): 1 for number in range(100_000)}),
    "100,000 bad_words": _with("bad_words", [f"w{number}" for number in range(100_000)]),
    "500,000 stop_token_ids": _with("stop_token_ids", [*range(500_000)]),
    "500,000 allowed_token_ids": _with("allowed_token_ids", [*range(500_000)]),
    "100,000 documents": _with("documents", [{"text": "a"}] * 100_000),
    "a chat template of 3 MB": _with("chat_template", "{{ messages }}" * 200_000),
    "an endless chat template": _with(
        "chat_template",
        "{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}",
    ),
    "a chat template that multiplies": _with("chat_template", "{{ 'x' * 10**10 }}"),
    "a chat template that looks around": _with(
        "chat_template", "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    ),
    "a deep chat template": _with("chat_template", "{{ " + "(" * 50_000 + ")" * 50_000 + " }}"),
    "chat_template_kwargs of 100,000": _with(
        "chat_template_kwargs", {f"k{number}": number for number in range(100_000)}
    ),
    "1.4 million empty arrays": _text("[" + "[]," * 1_300_000 + "[]]"),
    "1.3 million empty objects": _text("[" + "{}," * 1_300_000 + "{}]"),
    "arrays 1,000,000 deep": _text("[" * 1_000_000 + "]" * 1_000_000),
    "arrays 1,000,000 deep, never closed": _text("[" * 2_000_000),
    "objects 400,000 deep": _text('{"a":' * 400_000 + "1" + "}" * 400_000),
    "arrays 190 deep": _text("[" * 190 + "]" * 190),
    "arrays 900 deep": _text("[" * 900 + "]" * 900),
    "a number of 3,000,000 digits": _text("9" * 3_000_000),
    "a fraction of 3,000,000 digits": _text("0." + "9" * 3_000_000),
    "an exponent of 1,000,000 digits": _text("1e" + "9" * 1_000_000),
    "600,000 escapes": _text('"' + "\\u0041" * 600_000 + '"'),
    "600,000 surrogates": _text('"' + "\\ud83d" * 600_000 + '"'),
    "one key 300,000 times": _text("1," + ",".join(['"y":1'] * 300_000)[:-1] + "1"),
    "4 MB of blanks": lambda: asking("hi", CHAT) + b" " * 4_000_000,
}
ODD: Mapping[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "null": lambda: b"null",
    "a text": lambda: b'"hello"',
    "a number": lambda: b"5",
    "a list": lambda: b"[{}]",
    "blanks": lambda: b"   \n",
    "trailing garbage": lambda: asking("hi", CHAT) + b"}",
    "two objects": lambda: asking("hi", CHAT) * 2,
    "cut off": lambda: asking("hi", CHAT)[:-3],
    "single quotes": lambda: b"{'messages': 'hi'}",
    "a comment": lambda: b'{"messages": [] /* hi */}',
    "bad UTF-8": lambda: b'{"prompt": "\xff\xfe\x80"}',
    "overlong UTF-8": lambda: b'{"prompt": "\xc0\xaf\xe0\x80\xaf"}',
    "a surrogate in UTF-8": lambda: b'{"prompt": "\xed\xa0\x80"}',
    "a surrogate, escaped": lambda: b'{"prompt": "\\ud800", "max_tokens": 1}',
    "bad UTF-8 in a key": lambda: b'{"\xff": 1, "prompt": "hi"}',
    "a byte-order mark": lambda: b"\xef\xbb\xbf" + asking("hi", CHAT),
    "UTF-16": lambda: asking("hi", CHAT).decode().encode("utf-16"),
    "UTF-32": lambda: asking("hi", CHAT).decode().encode("utf-32"),
    "NUL bytes": lambda: b"\x00" * 1000,
    "NUL in a text": lambda: b'{"prompt": "a\x00b"}',
    "NaN": lambda: b'{"prompt": "hi", "temperature": NaN}',
    "Infinity": lambda: b'{"prompt": "hi", "temperature": -Infinity}',
    "1e999": lambda: b'{"prompt": "hi", "temperature": 1e999}',
    "msgpack": lambda: b"\x81\xa6prompt\xa2hi",
    "a form": lambda: b"prompt=hi&max_tokens=1",
    "a pickle": lambda: b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x02hi\x94.",
    "random bytes": lambda: bytes(range(256)) * 8,
}


def _odd() -> Iterator[Attack]:
    for path in (CHAT, f"{CHAT}/v1/messages", f"{REASONING}/v1/responses", "/v1/chat/completions"):
        for name, body in ODD.items():
            yield Attack(f"{name} to {path}", path, body)
    for path in COUNTING:
        for name in ("empty", "null", "a list", "cut off", "bad UTF-8", "random bytes", "1e999"):
            yield Attack(f"{name} to {path}", path, ODD[name])


def _lengths() -> Iterator[Attack]:
    """Lengths and encodings that do not fit what is sent."""
    body = asking("hi", CHAT)

    def with_head(name: str, *headers: tuple[bytes, bytes], sent: bytes = body) -> Attack:
        return Attack(
            name,
            CHAT,
            raw=lambda: head("POST", CHAT, (JSON, *headers)) + sent,
            outside_http=True,
            # A proxy waits for a head, or a chunk's, that may still come.
            limit_s=30,
        )

    length = b"content-length"
    yield with_head("a length that is too small", (length, b"10"))
    yield with_head("no length", sent=b"")
    yield with_head("a length below zero", (length, b"-5"))
    yield with_head("a length with a sign", (length, b"+%d" % len(body)))
    yield with_head("a length in hex", (length, b"0x%x" % len(body)))
    yield with_head("a length of 2^64", (length, b"18446744073709551616"), sent=b"")
    yield with_head("a length of 10^30", (length, b"1" + b"0" * 30), sent=b"")
    yield with_head("two lengths", (length, b"5"), (length, b"%d" % len(body)))
    yield with_head("a length and chunks", (length, b"5"), (b"transfer-encoding", b"chunked"))
    yield with_head("chunks of no kind", (b"transfer-encoding", b"xchunked"))
    yield with_head("identity, chunked", (b"transfer-encoding", b"identity, chunked"))
    yield with_head(
        "a chunk's size of 2^64",
        (b"transfer-encoding", b"chunked"),
        sent=b"FFFFFFFFFFFFFFFFFF\r\n" + body,
    )
    yield with_head(
        "a chunk with a long extension",
        (b"transfer-encoding", b"chunked"),
        sent=b"1;" + b"x" * 100_000 + b"\r\na\r\n0\r\n\r\n",
    )
    for encoding in (b"gzip", b"br", b"deflate", b"zstd", b"identity", b"nonsense"):
        yield Attack(
            f"a body that is {encoding.decode()}",
            CHAT,
            lambda: gzip.compress(body),
            headers=(JSON, (b"content-encoding", encoding)),
            wanted=(400, 413, 415),
        )
    yield Attack(
        "a gzip bomb of 1 GB",
        CHAT,
        lambda: gzip.compress(b" " * 10**9, compresslevel=1)[:LIMIT_BYTES],
        headers=(JSON, (b"content-encoding", b"gzip")),
        wanted=(400, 413, 415),
    )
    yield Attack("a body for GET", "/healthz", lambda: b"x" * MB, method="GET")
    yield Attack("a body for /api/tiers", "/api/tiers", lambda: b"[" * MB, method="GET")
    yield Attack(
        "expects a continue, 30 MB",
        CHAT,
        raw=lambda: post(CHAT, asking(words(30 * MB), CHAT), (JSON, (b"expect", b"100-continue"))),
        wanted=(413,),
        limit_s=20,
    )
    yield asks("expects the impossible", CHAT, {"prompt": "hi"}, headers=(JSON, (b"expect", b"x")))


ATTACKS = [
    *_large(),
    *_chunks(),
    *(Attack(name, CHAT, body, limit_s=20) for name, body in MANY.items()),
    *(
        Attack(f"{name}, /v1", "/v1/chat/completions", body, limit_s=20)
        for name, body in MANY.items()
    ),
    *_odd(),
    *_lengths(),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_body_is_refused_or_answered_and_delays_nobody(target: Target, attack: Attack) -> None:
    target.bear(attack)


def test_large_bodies_at_once_delay_nobody(target: Target) -> None:
    target.bear_all([*_large()], at_once=16)


def test_the_longest_texts_that_are_taken_are_tokenised_beside_everybody(target: Target) -> None:
    """Twenty at once, each as long as the limit lets it be."""
    paths = (f"{CHAT}/tokenize", f"{CHAT}/v1/messages/count_tokens", f"{CHAT}/detokenize")
    attacks = [_sized(path, size, (), "long") for size in (20_000, 60_000) for path in paths]
    target.bear_all(attacks * 10, at_once=20)
