"""Heads of requests: bytes that are no text, ids that are none, privileges that nobody gave."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from serve_app.core.tiers import Tier
from tests.e2e.site import wait_for
from tests.hostile.attack import CHAT, REASONING, Attack, Target
from tests.hostile.wire import JSON, as_json, head, post, round_trip

TINY = as_json({"prompt": "hi", "max_tokens": 1, "model": "chat"})
V1 = "/v1/chat/completions"
V1_TINY = as_json(
    {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
)
PATHS = {CHAT: TINY, V1: V1_TINY, f"{CHAT}/v1/messages": V1_TINY}
IDS = (b"x-request-id", b"x-session-id", b"serve_multiplexed_model_id", b"x-correlation-id")
# No header's value may have these.
CONTROLS = (b"a\x01b", b"a\x7fb")
VALUES: Sequence[bytes] = (
    b"\xff",
    b"\xff\xfe\x80abc",
    b"\xc3\xa9t\xc3\xa9",
    b"a" * 129,
    b"a" * 4000,
    b"with a blank",
    b"",
    b" ",
    b"\t",
    b"a,b",
    b"a;b=c",
    b"../../etc/passwd",
    b"%00",
    b'"quoted"',
    b"<script>",
    b"{}",
    b"-" * 128,
    *CONTROLS,
)
SINGLE: Sequence[tuple[bytes, bytes]] = (
    (b"x-tierserve-relayed", b"1"),
    (b"x-tierserve-relayed", b"\xff"),
    (b"x-tierserve-relayed", b"wrong-secret"),
    (b"x-tierserve-prefix", b"-1"),
    (b"x-tierserve-prefix", b"\xff"),
    (b"x-tierserve-report", b"wrong-secret"),
    (b"x-tierserve-borrowed-by", b"reasoning"),
    (b"x-tierserve-borrowed-by", b"chat"),
    (b"x-tierserve-borrowed-by", b"\xff"),
    (b"x-tierserve-lending-key", b"1"),
    (b"x-tierserve-anything", b"1"),
    (b"x-stainless-retry-count", b"1"),
    (b"x-stainless-retry-count", b"-1"),
    (b"x-stainless-retry-count", b"\xff"),
    (b"x-stainless-retry-count", b"1" * 5000),
    (b"accept", b"text/html"),
    (b"accept", b"\xff"),
    (b"accept", b"," * 5000),
    (b"accept-encoding", b"gzip, br, zstd;q=nonsense"),
    (b"authorization", b"Bearer \xff"),
    (b"authorization", b"Bearer " + b"k" * 6000),
    (b"authorization", b""),
    (b"cookie", b"a=" + b"b" * 6000),
    (b"traceparent", b"00-zz-zz-zz"),
    (b"traceparent", b"\xff" * 55),
    (b"tracestate", b"\xff"),
    (b"baggage", b"a=\xff," * 500),
    (b"x-forwarded-for", b"1.2.3.4, \xff"),
    (b"x-forwarded-proto", b"https\xff"),
    (b"x-forwarded-host", b"evil/../\x80"),
    (b"forwarded", b"for=\xff"),
    (b"host", b"\xff"),
    (b"host", b"evil:99999"),
    (b"host", b""),
    (b"x-data-parallel-rank", b"5"),
    (b"x-data-parallel-rank", b"\xff"),
    (b"x-data-parallel-rank", b"9" * 400),
    (b"x-session-affinity", b"\xff"),
    (b"anthropic-version", b"\xff"),
    (b"openai-organization", b"\xff"),
    (b"range", b"bytes=0-5"),
    (b"if-none-match", b"*"),
    (b"te", b"trailers, \xff"),
    (b"connection", b"x-request-id"),
    (b"connection", b"\xff"),
    (b"origin", b"\xff"),
    (b"origin", b"null"),
    (b"access-control-request-method", b"\xff"),
    (b"x-http-method-override", b"DELETE"),
    (b"x-vllm-anything", b"\xff"),
    (b"load-report", b"\xff"),
    (b"endpoint-load-metrics-format", b"\xff"),
    (b"rAy_SeRvE_rEqUeSt_Id", b"\xff"),
    (b"x-ray-serve-anything", b"\xff"),
)
CONTENT_TYPES: Sequence[bytes] = (
    b"",
    b"text/plain",
    b"application/xml",
    b"application/json; charset=utf-16",
    b"application/json; charset=nonsense",
    b"multipart/form-data",
    b"multipart/form-data; boundary=" + b"x" * 4000,
    b"application/x-www-form-urlencoded",
    b"\xff",
    b"application/json\xff",
    b"a" * 4000,
    b"application/json;" * 200,
    b"application/vnd.api+json",
    b"*/*",
)
METHODS = (
    "TRACE",
    "CONNECT",
    "PUT",
    "DELETE",
    "PATCH",
    "HEAD",
    "OPTIONS",
    "PROPFIND",
    "GET",
    "X" * 200,
)
ROUTED = (
    CHAT,
    f"{CHAT}/v1/chat/completions",
    V1,
    "/healthz",
    "/api/tiers",
    "/",
    "/metrics",
    "/v1/models",
)
ODD_PATHS: Sequence[bytes] = (
    b"/api/chat/%2e%2e/%2e%2e/metrics",
    b"/api/chat/../reasoning",
    b"/api/chat//v1//completions",
    b"//api/chat",
    b"/api/chat/",
    b"/api/chat/%00",
    b"/%00",
    b"/api/chat/v1/completions%00",
    b"/api/chat/%ff%fe",
    b"/api/chat/\xff",
    b"/api/chat/\xc3\xa9",
    b"/api/chat/%",
    b"/api/chat/%zz",
    b"/api/chat;a=b",
    b"/api/chat?" + b"a=b&" * 2000,
    b"/api/chat?\xff=\xff",
    b"/api/chat#fragment",
    b"/api/chat/" + b"a" * 8000,
    b"/" + b"a" * 16_000,
    b"/" + b"a/" * 8000,
    b"/api/nowhere",
    b"/API/CHAT",
    b"*",
    b"http://evil/api/chat",
    b"http://127.0.0.1:9/",
    b"/api/chat/v1/responses/resp_x",
    b"/api/chat/v1/responses/%ff",
    b"/api/chat/v1/responses/" + b"a" * 4000,
    b"/api/chat/v1/responses/../../health",
    b"/v1/models/%ff",
    b"/v1/models/" + b"m" * 4000,
    b"/v1/models/../../metrics",
    b"/api/chat/pause",
    b"/api/chat/sleep",
    b"/api/chat/v1/load_lora_adapter",
    b"/api/chat/collective_rpc",
    b"/api/chat/reset_prefix_cache",
    b"/api/chat/docs",
    b"/api/chat/openapi.json",
    b"/-/routes",
    b"/-/healthz",
    b"/.env",
    b"/haproxy?stats",
)
WEBSOCKET = (
    (b"upgrade", b"websocket"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"sec-websocket-version", b"13"),
)


def _raw(name: str, request: bytes, **more: object) -> Attack:
    method = request.split(b" ")[0].decode("latin-1")
    return Attack(name, CHAT, raw=lambda: request, method=method, **more)  # pyright: ignore[reportArgumentType]


def _values() -> Iterator[Attack]:
    for path, body in PATHS.items():
        for name in IDS:
            for value in VALUES:
                yield Attack(
                    f"{name.decode()}: {value[:20]!r} to {path}",
                    path,
                    lambda body=body: body,
                    headers=(JSON, (name, value)),
                    outside_http=value in CONTROLS,
                )
        for name, value in SINGLE:
            yield Attack(
                f"{name.decode()}: {value[:20]!r} to {path}",
                path,
                lambda body=body: body,
                headers=(JSON, (name, value)),
                # A request that names two hosts is none.
                outside_http=name in (b"host", b"te", b"connection"),
            )
        for name in IDS:
            headers = (JSON, (name, b"one"), (name, b"two"))
            yield Attack(
                f"two {name.decode()} to {path}", path, lambda body=body: body, headers=headers
            )
        yield Attack(
            f"an id of each kind to {path}",
            path,
            lambda body=body: body,
            headers=(JSON, (b"x-request-id", b"good-1"), (b"x-request-id", b"\xff")),
        )
        for value in CONTENT_TYPES:
            yield Attack(
                f"content-type {value[:20]!r} to {path}",
                path,
                lambda body=body: body,
                headers=((b"content-type", value),),
            )
    for path in ("/healthz", "/api/tiers", "/v1/models", f"{CHAT}/health", f"{CHAT}/nowhere"):
        for value in VALUES:
            yield Attack(
                f"{value[:20]!r} as id to {path}",
                path,
                method="GET",
                headers=((b"x-request-id", value),),
                outside_http=value in CONTROLS,
            )


def _heads() -> Iterator[Attack]:
    for size in (7000, 14_000, 30_000, 200_000):
        yield _raw(
            f"a header of {size}",
            post(CHAT, TINY, (JSON, (b"x-a", b"a" * size))),
            outside_http=True,
        )
    for count in (90, 120, 1000, 20_000):
        many = [(b"x-%d" % number, b"a") for number in range(count)]
        yield _raw(f"{count} headers", post(CHAT, TINY, [JSON, *many]), outside_http=True)
    yield _raw("a header without a name", post(CHAT, TINY, (JSON, (b"", b"a"))), outside_http=True)
    yield _raw("a name with a blank", post(CHAT, TINY, (JSON, (b"a b", b"a"))), outside_http=True)
    yield _raw("a name with 0xff", post(CHAT, TINY, (JSON, (b"a\xff", b"a"))), outside_http=True)
    yield _raw("a value with NUL", post(CHAT, TINY, (JSON, (b"a", b"a\x00b"))), outside_http=True)
    yield _raw(
        "a value with a line's end", post(CHAT, TINY, (JSON, (b"a", b"b\rc"))), outside_http=True
    )
    yield _raw(
        "a value that goes on", post(CHAT, TINY, (JSON, (b"a", b"b\r\n c"))), outside_http=True
    )
    yield _raw("HTTP/0.9", b"GET /healthz\r\n\r\n", outside_http=True)
    yield _raw("HTTP/1.0", b"GET /healthz HTTP/1.0\r\n\r\n")
    yield _raw("HTTP/2.0", b"GET /healthz HTTP/2.0\r\nhost: a\r\n\r\n", outside_http=True)
    yield _raw("HTTP/9.9", b"GET /healthz HTTP/9.9\r\nhost: a\r\n\r\n", outside_http=True)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 64
    yield _raw("HTTP/2's preface", preface, outside_http=True, limit_s=60)
    yield _raw(
        "TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 600, outside_http=True
    )
    yield _raw("no host", b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n", outside_http=True)
    yield _raw(
        "line feeds only", b"GET /healthz HTTP/1.1\nhost: a\n\n", outside_http=True, limit_s=60
    )
    yield _raw("blank lines first", b"\r\n" * 100 + head("GET", "/healthz"), outside_http=True)
    yield _raw("SSH", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", outside_http=True)
    yield _raw(
        "the proxy protocol",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + head("GET", "/"),
        outside_http=True,
    )


def _paths() -> Iterator[Attack]:
    for path in ODD_PATHS:
        for method in ("GET", "POST"):
            request = head(method, path) if method == "GET" else post(path, TINY)
            long_or_raw = len(path) > 7000 or any(byte > 0x7E for byte in path) or path[:1] != b"/"
            yield _raw(
                f"{method} {path[:40]!r} ({len(path)})",
                request,
                outside_http=long_or_raw or b"#" in path or b"%00" in path,
                # Serve's own routes, and those for browsers, are no concern of OpenAI's form.
                bodiless=path.startswith(b"/-/"),
            )
    for path in ROUTED:
        for method in METHODS:
            yield _raw(
                f"{method[:10]} {path}",
                head(method, path, (JSON,), length=0),
                outside_http=method in ("CONNECT", "TRACE") or len(method) > 100,
                bodiless=method in ("HEAD", "OPTIONS"),
            )


def _upgrades() -> Iterator[Attack]:
    for path in (CHAT, f"{CHAT}/v1/realtime", V1, "/healthz", "/", "/v1/realtime", REASONING):
        upgrade = [header for header in WEBSOCKET]
        request = head("GET", path, upgrade).replace(b"connection: close", b"connection: Upgrade")
        yield _raw(f"websocket to {path}", request, outside_http=True)
        wrong = request.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"\xff")
        yield _raw(f"websocket with a wrong key to {path}", wrong, outside_http=True)
    h2c = head("GET", "/healthz", ((b"upgrade", b"h2c"), (b"http2-settings", b"AAMAAABk")))
    yield _raw("h2c", h2c.replace(b"connection: close", b"connection: Upgrade, HTTP2-Settings"))


ATTACKS = [*_values(), *_heads(), *_paths(), *_upgrades()]


@pytest.mark.parametrize("start", range(0, len(ATTACKS), 40))
def test_no_head_makes_a_server_error(target: Target, start: int) -> None:
    target.bear_all(ATTACKS[start : start + 40])


def test_two_requests_with_one_id_are_two_requests(target: Target) -> None:
    """One of them leaves; the other one ends as if it had been alone."""
    headers = (JSON, (b"x-request-id", b"the-same-id"))
    long = as_json({"prompt": "hi", "max_tokens": 400, "ignore_eos": True, "temperature": 0})
    ended: list[tuple[int, int]] = []

    def ask() -> None:
        answer = round_trip(target.address, post(CHAT, long, headers), limit_s=60)
        target.tally.add("the one that stays", answer.status, answer.took_s)
        tokens = answer.json()["usage"]["completion_tokens"] if answer.status == 200 else 0
        ended.append((answer.status, tokens))

    with target.tally.attacking("two with one id"):
        staying = threading.Thread(target=ask)
        staying.start()
        for _ in range(5):
            with target.address.connect() as leaving:
                leaving.sendall(post(CHAT, long, headers))
                wait_for(lambda: target.site.tier(Tier.CHAT)["running"] >= 1, "it runs", 5)
        staying.join()
    assert ended == [(200, 400)]
    assert not target.deaths()


@pytest.mark.parametrize(
    "header", [(b"x-tierserve-relayed", b"1"), (b"x-tierserve-borrowed-by", b"reasoning")]
)
def test_a_stranger_who_claims_to_be_a_replica_is_counted_like_anybody(
    target: Target, header: tuple[bytes, bytes]
) -> None:
    def counted() -> float:
        # All who ask within half a second get the same answer.
        time.sleep(1)
        return target.site.metrics_now().value("tierserve_requests_total", tier="reasoning")

    def asked(*headers: tuple[bytes, bytes]) -> float:
        before = counted()
        request = post(REASONING, TINY.replace(b'"chat"', b'"reasoning"'), (JSON, *headers))
        for _ in range(50):
            answer = round_trip(target.address, request)
            target.tally.add(f"{headers}", answer.status, answer.took_s)
            assert answer.status in (200, 400, 403), answer.text
        return counted() - before

    # The probe's own questions are counted too, two a second.
    assert asked(header) >= 50


def test_a_header_buys_no_place_in_the_queue(target: Target) -> None:
    """A full tier refuses a first request that says it is a retry like any other."""
    slots = target.site.tier(Tier.CHAT)["slots"]
    long = {"ignore_eos": True, "max_tokens": 1000, "temperature": 0, "stream": True}
    held: list[socket.socket] = []

    def ask(count: int, *headers: tuple[bytes, bytes]) -> list[int]:
        """The statuses of so many requests at once; 0: one that waits."""
        asked = [target.address.connect() for _ in range(count)]
        held.extend(asked)
        for number, connection in enumerate(asked):
            body = as_json({"prompt": f"{len(held)}, {number}", **long})
            connection.sendall(post(CHAT, body, (JSON, *headers)))
        time.sleep(1)
        return [_status_so_far(connection) for connection in asked]

    with target.tally.filling(Tier.CHAT, "slots and queue full"):
        try:
            # Slots, queue, and some that are refused.
            plain = ask(3 * slots)
            claiming = ask(slots, (b"x-stainless-retry-count", b"1"))
        finally:
            for connection in held:
                connection.close()
        target.wait_until_idle()
    for status in (*plain, *claiming):
        target.tally.add("a full tier", status or "waits", 0.0)
    assert 429 in plain
    # A place or two become free meanwhile.
    assert claiming.count(429) >= len(claiming) - 2, claiming


def _status_so_far(connection: socket.socket) -> int:
    """Of the head that has come; a stream that waits has one too, and a comment below it."""
    connection.setblocking(False)
    try:
        received = connection.recv(1 << 16)
    except BlockingIOError:
        return 0
    except OSError:
        return -1
    return 429 if received.startswith(b"HTTP/1.1 429") else 0
