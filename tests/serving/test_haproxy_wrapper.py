"""HAProxy behind our wrapper: Ray's own rendered configuration, the real binary, raw bytes."""

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.serving.haproxy_wrapper import (
    BODY_TIMEOUT_VARIABLE,
    HEADER_TIMEOUT_VARIABLE,
    HOST_VARIABLE,
    MOST_CONNECTIONS,
    ClientLimits,
    haproxy_binary,
    hardened,
    limits_of,
)
from tests.serving.haproxy_site import WRAPPER, Answer, HaproxySite, haproxy_site, rendered
from tests.serving.test_haproxy_restart import admin, wait_until

LIMITS = ClientLimits(connections=1000, header_timeout_s=2.0)
HEADER_TIMEOUT_S, BODY_TIMEOUT_S, CLIENT_TIMEOUT_S = 1.0, 1.5, 2
# The machine may stall; what has no limit lasts for longer.
LATE_S = 5.0
UPGRADE = (
    b"connection: upgrade",
    b"upgrade: websocket",
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    b"sec-websocket-version: 13",
)


def ignore(_message: str) -> None:
    pass


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> str:
    return rendered(tmp_path_factory.mktemp("rendered")).read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HaproxySite]:
    environment = {
        HEADER_TIMEOUT_VARIABLE: str(HEADER_TIMEOUT_S),
        BODY_TIMEOUT_VARIABLE: str(BODY_TIMEOUT_S),
        "RAY_SERVE_HAPROXY_MAXCONN": "40",
    }
    folder = tmp_path_factory.mktemp("site")
    with haproxy_site(folder, environment, timeout_client_s=CLIENT_TIMEOUT_S) as running:
        yield running


def error_of(answer: Answer) -> dict[str, object]:
    """The error, which has OpenAI's four fields and no other."""
    assert answer.header("content-type") == ["application/json"]
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST /api/chat HTTP/1.1", b"host: a", *lines, b"", body])


# --- the text ---


def test_every_edit_finds_its_place_in_rays_template(template: str) -> None:
    left_out: list[str] = []
    once = hardened(template, LIMITS, left_out.append)
    assert left_out == []
    assert once != template
    assert hardened(once, LIMITS, left_out.append) == once


def test_haproxy_takes_the_edited_file_without_a_new_warning(template: str, tmp_path: Path) -> None:
    def said_about(text: str) -> list[str]:
        file = tmp_path / "haproxy.cfg"
        file.write_text(text)
        command = [haproxy_binary(os.environ), "-c", "-f", str(file)]
        checked = subprocess.run(command, capture_output=True, text=True, check=True)
        return [x.split(" : ", 1)[1] for x in checked.stderr.splitlines() if "WARNING" in x]

    assert said_about(hardened(template, LIMITS)) == said_about(template)


@pytest.mark.parametrize(
    ("line", "edit"),
    [
        ("maxconn 4096", "allow_connections"),
        ("timeout client 60s", "limit_silence"),
        ("balance leastconn", "answer_errors_as_json"),
        ("frontend http_frontend", "guard_the_door"),
        ("backend default_backend", "say_that_nothing_is_there"),
        ("listen stats", "close_the_stats_page"),
    ],
)
def test_a_template_that_has_changed_keeps_the_other_edits(
    template: str, line: str, edit: str
) -> None:
    said: list[str] = []
    edited = hardened(template.replace(line, "# something else"), LIMITS, said.append)
    assert [message.split(" ", 1)[0] for message in said] == [edit]
    whole = hardened(template, LIMITS).splitlines()
    assert len(whole) - 40 < len(edited.splitlines()) <= len(whole)


def test_a_host_closes_everything_but_the_http_port(template: str) -> None:
    def binds(limits: ClientLimits) -> list[str]:
        lines = hardened(template, limits).splitlines()
        return [line.split()[1].rsplit(":", 1)[0] for line in lines if " bind " in line]

    # Prometheus, clients, the stats page.
    assert binds(LIMITS) == ["", "127.0.0.1", "127.0.0.1"]
    assert binds(LIMITS._replace(http_host="0.0.0.0")) == ["127.0.0.1", "*", "127.0.0.1"]
    assert binds(LIMITS._replace(http_host="10.0.0.1")) == ["127.0.0.1", "10.0.0.1", "127.0.0.1"]


def test_limits_follow_from_the_file_descriptors() -> None:
    few, many = limits_of({}, 20_000, ignore), limits_of({}, 2**20, ignore)
    assert (few.connections, few.header_timeout_s) == (18_000, 2.0)
    assert many.connections == MOST_CONNECTIONS
    assert 3 < many.header_timeout_s <= 5
    assert limits_of({}, 1024, ignore).connections == 921


def test_the_environment_wins_and_nonsense_in_it_is_reported() -> None:
    chosen = {
        HEADER_TIMEOUT_VARIABLE: "7.5",
        "RAY_SERVE_HAPROXY_MAXCONN": "123",
        HOST_VARIABLE: "0.0.0.0",
    }
    limits = limits_of(chosen, 20_000, ignore)
    assert limits == ClientLimits(123, 7.5, http_host="0.0.0.0")
    said: list[str] = []
    limits = limits_of(
        {BODY_TIMEOUT_VARIABLE: "soon", HEADER_TIMEOUT_VARIABLE: "-1"}, 20_000, said.append
    )
    assert limits == limits_of({}, 20_000, ignore)
    assert len(said) == 2


def test_the_wrapper_is_not_its_own_binary() -> None:
    """Ray's package would give the wrapper back, whose variable this is."""
    binary = haproxy_binary(os.environ | {"RAY_SERVE_HAPROXY_BINARY_PATH": str(WRAPPER)})
    assert Path(binary).name == "haproxy"


def test_a_configuration_that_haproxy_refuses_is_left_as_it_was(tmp_path: Path) -> None:
    """A header name of Serve's that nobody foresaw must not keep HAProxy from its start."""
    file = rendered(tmp_path)
    before = file.read_text()
    broken = before.replace("timeout connect 5s", "timeout connect 5parsecs")
    file.write_text(broken)
    started = subprocess.run([WRAPPER, "-c", "-f", file], capture_output=True, text=True)
    assert file.read_text() == broken
    assert "HAProxy starts as Ray configured it" in started.stderr
    assert list(tmp_path.glob("haproxy.cfg.*[0-9]")) == []


# --- who is refused, and how ---


def test_a_plain_request_gets_its_answer(site: HaproxySite) -> None:
    body = b"x" * 50_000
    assert site.get("/api/chat", method="POST", body=body).status == 200


@pytest.mark.parametrize(
    "header",
    [
        b"x-session-id: \xff",
        b"X_Session-Id: a\xffb",
        b"serve_multiplexed_model_id: \xff",
        b"Serve-Multiplexed-Model_Id: \x80",
        b"x-request-timeout-seconds: \xff",
        b"traceparent: \xff",
    ],
)
def test_bytes_that_serve_cannot_decode_are_a_bad_request(site: HaproxySite, header: bytes) -> None:
    answer = site.get("/", b"accept: a", header, b"user-agent: a")
    assert (answer.status, answer.closed) == (400, True)
    assert error_of(answer)["code"] == "invalid_header"
    assert len(answer.header("x-request-id")) == 1


def test_other_headers_may_have_any_bytes(site: HaproxySite) -> None:
    assert site.get("/", b"user-agent: \xff", b"x-session-id: a").status == 200


@pytest.mark.parametrize("path", ["/", "/v1/messages"])
def test_a_websocket_is_refused_and_closed(site: HaproxySite, path: str) -> None:
    lines = [f"GET {path} HTTP/1.1".encode(), b"host: a", *UPGRADE, b"", b""]
    answer = site.send(b"\r\n".join(lines))
    assert (answer.status, answer.closed) == (400, True)
    assert answer.elapsed_s < LATE_S
    assert error_of(answer)["code"] == "websocket_not_supported"
    assert json.loads(answer.body).get("type") == ("error" if "messages" in path else None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([b"a.b:c_d-1"], "a.b:c_d-1"),
        ([b"a" * 128], "a" * 128),
        ([b"a" * 129], None),
        ([b"a b"], None),
        ([b""], None),
        ([b"\xff"], None),
        ([b"a,b"], None),
        ([b"a", b"b"], None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_only_one_wellformed_request_id_comes_in_and_one_goes_out(
    site: HaproxySite, given: list[bytes], kept: str | None
) -> None:
    answer = site.get("/", *(b"x-request-id: " + each for each in given))
    assert answer.status == 200
    assert json.loads(answer.body).get("x-request-id") == kept
    assert answer.header("x-request-id") == ["own"]


def test_internal_headers_do_not_come_in(site: HaproxySite) -> None:
    names = (b"relayed", b"borrowed-by", b"plan")
    headers = [b"X-Tierserve-" + name + b": 1" for name in names]
    answer = site.get("/", *headers, b"x-request-disconnect-disabled: ?1", b"x-tierserve-x: 1")
    assert {n for n in json.loads(answer.body) if n.startswith("x-")} == {"x-tierserve-x"}


# --- HAProxy's own answers ---


@pytest.mark.parametrize("path", ["/away", "/away/v1/messages"])
def test_no_server_is_a_503_that_says_when_to_retry(site: HaproxySite, path: str) -> None:
    answer = site.get(path)
    assert answer.status == 503
    assert answer.header("retry-after") == ["5"]
    assert error_of(answer)["type"] == "service_unavailable_error"


def test_a_server_that_dies_over_every_attempt_is_a_502(site: HaproxySite) -> None:
    answer = site.get("/die")
    assert answer.status == 502
    assert error_of(answer)["code"] == "bad_gateway"


def test_a_replicas_own_error_stays_its_own(site: HaproxySite) -> None:
    answer = site.get("/own503")
    assert (answer.status, answer.body) == (503, b"mine")


def test_where_nothing_is_deployed_the_404_is_json(tmp_path: Path, template: str) -> None:
    text = "\n".join(x for x in template.splitlines() if "use_backend" not in x) + "\n"
    assert "default_backend default_backend" in text
    edited = hardened(text, LIMITS)
    (line,) = (x for x in edited.splitlines() if "status 404" in x)
    assert "application/json" in line
    assert "text/plain" not in line


# --- who keeps a connection and gives nothing ---


@pytest.mark.parametrize(
    ("data", "status", "limit_s"),
    [
        (b"", None, HEADER_TIMEOUT_S),
        # HAProxy's parser answers these by itself, in HTML.
        (b"POST /api/chat HTTP/1.1\r\nho", 408, HEADER_TIMEOUT_S),
        (post(b"content-length: 100", body=b"{"), 408, BODY_TIMEOUT_S),
        (post(b"transfer-encoding: chunked", body=b"5\r\nab"), 408, BODY_TIMEOUT_S),
        (b"GET /api/chat HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n", 408, BODY_TIMEOUT_S),
        (post(b"content-length: 90000", body=b"x" * 40000), 400, CLIENT_TIMEOUT_S),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 0),
        (b"NONSENSE\r\n\r\n", 400, 0),
    ],
    ids=["nothing", "header", "body", "chunk", "get", "large", "h2", "nonsense"],
)
def test_half_a_request_is_closed_in_time(
    site: HaproxySite, data: bytes, status: int | None, limit_s: float
) -> None:
    answer = site.send(data)
    assert answer.closed
    assert limit_s <= answer.elapsed_s < limit_s + LATE_S
    assert (answer.status if answer.raw else None) == status
    if limit_s == BODY_TIMEOUT_S:
        assert error_of(answer)["code"] == "request_timeout"


@pytest.mark.parametrize("status", [408, 413])
def test_a_client_that_still_owes_a_body_gets_the_replicas_refusal_and_is_closed_in_time(
    site: HaproxySite, status: int
) -> None:
    head = f"POST /refuse/{status} HTTP/1.1\r\nhost: a\r\ncontent-length: 90000\r\n\r\n"
    answer = site.send(head.encode() + b"x" * 40000)
    assert (answer.status, answer.closed) == (status, True)
    assert answer.elapsed_s < CLIENT_TIMEOUT_S + LATE_S


def test_half_a_small_body_reaches_no_replica(site: HaproxySite) -> None:
    seen = len(site.backend.heads)
    site.send(post(b"content-length: 100", b"x-session-id: half", body=b"{"))
    assert len(site.backend.heads) == seen


def test_drops_of_a_header_do_not_buy_time(site: HaproxySite) -> None:
    began_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", site.port)) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nx: ")
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began_s < 20:
                slow.sendall(b"a")
                time.sleep(0.1)
    assert time.monotonic() - began_s < HEADER_TIMEOUT_S + LATE_S


def test_a_stream_that_is_silent_for_long_is_not_cut(site: HaproxySite) -> None:
    """Its client sends nothing either, for longer than any of the limits."""
    silent_s = 3.0 * CLIENT_TIMEOUT_S
    answer = site.send(
        f"GET /stream/{silent_s} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode(),
        wait_s=silent_s + 20,
    )
    assert answer.closed
    assert answer.body.endswith(b"last\r\n0\r\n\r\n")


def read_slowly(site: HaproxySite, pause_s: float, seconds: float) -> bool:
    """Whether the connection lives on after `seconds` of reading little, or nothing."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.connect(("127.0.0.1", site.port))
        client.sendall(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
        began_s = time.monotonic()
        while time.monotonic() - began_s < seconds:
            client.recv(8192)
            time.sleep(pause_s)
        client.settimeout(20)
        received = 0
        try:
            while piece := client.recv(1 << 20):
                received += len(piece)
                # More than all buffers on the way hold.
                if received > 10_000_000:
                    return True
        except ConnectionError:
            pass
        return False


def test_a_slow_reader_stays_and_one_that_reads_nothing_is_cut(site: HaproxySite) -> None:
    assert read_slowly(site, 0.1, 2.0 * CLIENT_TIMEOUT_S)
    assert not read_slowly(site, 3.0 * CLIENT_TIMEOUT_S, 1)


def test_a_crowd_keeps_no_connection_open_after_its_answer(tmp_path: Path) -> None:
    """Half of `maxconn` may be idle after an answer; those that come then are closed."""
    # None of them is closed before it has asked.
    environment = {HEADER_TIMEOUT_VARIABLE: "20", "RAY_SERVE_HAPROXY_MAXCONN": "40"}
    with haproxy_site(tmp_path, environment) as patient:
        ask_in_a_crowd(patient)


def open_connections(site: HaproxySite) -> int:
    (number,) = re.findall(r"^CurrConns: (\d+)$", admin(site, "show info"), re.MULTILINE)
    return int(number)


def ask_in_a_crowd(site: HaproxySite) -> None:
    ask = b"GET /-/healthz HTTP/1.1\r\nhost: a\r\n\r\n"
    crowd = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(36)]
    try:
        # They wait to be accepted for a moment.
        wait_until(lambda: open_connections(site) >= len(crowd))
        answers: list[bytes] = []
        for each in crowd:
            each.settimeout(20)
            each.sendall(ask)
            answers.append(each.recv(4096))
        assert all(b" 200 " in each for each in answers)
        closing = [b"connection: close" in each for each in answers]
        assert closing[0]
        assert not closing[-1]
        assert site.get("/").status == 200
    finally:
        for each in crowd:
            each.close()


def test_idle_connections_beyond_maxconn_give_way_in_time(site: HaproxySite) -> None:
    idle = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(60)]
    try:
        began_s = time.monotonic()
        assert site.get("/").status == 200
        assert time.monotonic() - began_s < HEADER_TIMEOUT_S + LATE_S
    finally:
        for each in idle:
            each.close()
