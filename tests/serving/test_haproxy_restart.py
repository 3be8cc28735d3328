"""HAProxy is killed, reloaded and stopped as Ray does it: the real binary behind the wrapper."""

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from serve_app.serving.haproxy_restart import MOST_RESTARTS, NotWatchedError, words_of
from tests.serving.haproxy_site import WRAPPER, Answer, HaproxySite, haproxy_site, rendered

# A new process takes some ten milliseconds; all cores may be busy.
SOON_S = 20.0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[HaproxySite]:
    with haproxy_site(tmp_path) as running:
        yield running


def child_of(site: HaproxySite) -> psutil.Process:
    """The HAProxy that serves now."""
    (child,) = psutil.Process(site.process.pid).children()
    return child


def admin(site: HaproxySite, command: str) -> str:
    """As Ray asks."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(SOON_S)
        asking.connect(str(site.config.parent / "admin.sock"))
        asking.sendall(f"{command}\n".encode())
        answer = b""
        while piece := asking.recv(1 << 16):
            answer += piece
    return answer.decode()


def reported_pid(site: HaproxySite) -> int:
    lines = admin(site, "show info").splitlines()
    (number,) = [line.removeprefix("Pid: ") for line in lines if line.startswith("Pid: ")]
    return int(number)


def said(site: HaproxySite) -> str:
    return (site.config.parent / "stdout").read_text()


def wait_until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def replaced(site: HaproxySite, wrapper_pid: int, before: psutil.Process) -> psutil.Process:
    """The HAProxy that a wrapper has started instead of `before`, which has ended; once it answers
    Ray, too."""
    wrapper = psutil.Process(wrapper_pid)
    wait_until(lambda: wrapper.children() and before not in wrapper.children())
    wait_until(lambda: is_administered(site))
    return wrapper.children()[0]


def is_administered(site: HaproxySite) -> bool:
    try:
        return "Pid: " in admin(site, "show info")
    except OSError:
        return False


def answers(site: HaproxySite) -> bool:
    try:
        return site.get("/").status == 200
    except OSError:
        return False


def wait_until_gone(process: psutil.Process) -> None:
    psutil.wait_procs([process], timeout=SOON_S)
    assert not process.is_running()


@contextmanager
def asked_all_the_while(site: HaproxySite) -> Iterator[list[Answer | OSError]]:
    """Requests one after the other, each on a connection of its own."""
    answers: list[Answer | OSError] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                answers.append(site.get("/"))
            except OSError as error:
                answers.append(error)

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for each in asking:
        each.start()
    try:
        yield answers
    finally:
        over.set()
        for each in asking:
            each.join()


def stream_in_background(
    site: HaproxySite, silent_s: float
) -> tuple[threading.Thread, list[bytes]]:
    """A stream of which the first part has come."""
    connection = socket.create_connection(("127.0.0.1", site.port))
    connection.settimeout(silent_s + SOON_S)
    head = f"GET /stream/{silent_s} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    connection.sendall(head.encode())
    received = [connection.recv(65536)]

    def read() -> None:
        with connection:
            try:
                while piece := connection.recv(65536):
                    received.append(piece)
            except ConnectionError:
                pass

    reading = threading.Thread(target=read)
    reading.start()
    return reading, received


# --- a death ---


def test_a_killed_haproxy_is_replaced_in_its_sockets_and_nobody_is_refused(
    site: HaproxySite,
) -> None:
    before = child_of(site)
    with asked_all_the_while(site) as given:
        wait_until(lambda: len(given) >= 10)
        before.kill()
        after = replaced(site, site.process.pid, before)
        asked = len(given)
        wait_until(lambda: len(given) >= asked + 10)
    refused = [each for each in given if not isinstance(each, Answer)]
    assert refused == []
    whole = [each for each in given if isinstance(each, Answer)]
    # What was being answered at that moment is lost.
    assert len([each for each in whole if each.raw[:12] != b"HTTP/1.1 200"]) <= 2
    assert max(each.elapsed_s for each in whole) < SOON_S
    assert after.pid != before.pid
    assert f"HAProxy {before.pid} has ended with -9" in said(site)


def test_ray_sees_the_process_that_it_has_started_before_and_after(site: HaproxySite) -> None:
    assert reported_pid(site) == site.process.pid
    before = child_of(site)
    before.kill()
    replaced(site, site.process.pid, before)
    assert reported_pid(site) == site.process.pid
    assert "http-app0" in admin(site, "show stat")


def test_a_haproxy_that_always_dies_is_given_up(site: HaproxySite) -> None:
    child = child_of(site)
    for _ in range(MOST_RESTARTS):
        child.kill()
        child = replaced(site, site.process.pid, child)
    child.kill()
    assert site.process.wait(SOON_S) == 128 + signal.SIGKILL


def test_one_that_does_not_start_is_not_started_again(tmp_path: Path) -> None:
    file = rendered(tmp_path)
    file.write_text(file.read_text().replace("timeout connect 5s", "timeout connect 5parsecs"))
    started = subprocess.run(
        [WRAPPER, "-db", "-f", file, "-dR"], capture_output=True, text=True, timeout=60
    )
    assert started.returncode == 1
    assert "has ended" not in started.stderr
    assert "Fatal errors found in configuration" in started.stderr


def test_a_port_that_is_taken_is_said_as_haproxy_says_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file = rendered(tmp_path, taken.getsockname()[1])
        started = subprocess.run(
            [WRAPPER, "-db", "-f", file, "-dR"], capture_output=True, text=True, timeout=60
        )
    assert started.returncode == 1
    assert "cannot bind socket (Address already in use)" in started.stderr


def test_streams_outlive_the_process_that_ray_has_started(site: HaproxySite) -> None:
    """Ray starts another one with the same addresses, within seconds."""
    haproxy = child_of(site)
    reading, received = stream_in_background(site, 2.0)
    site.process.kill()
    site.process.wait()
    deadline_s = time.monotonic() + SOON_S
    while answers(site):
        assert time.monotonic() < deadline_s
    again = [str(WRAPPER), "-db", "-f", str(site.config), "-dR"]
    with subprocess.Popen(again, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as second:
        try:
            while not answers(site):
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            assert reported_pid(site) == second.pid
            reading.join()
            assert b"".join(received).endswith(b"last\r\n0\r\n\r\n")
            wait_until_gone(haproxy)
        finally:
            second.terminate()


# --- as Ray asks ---


def test_a_reload_hands_the_sockets_over_and_leaves_streams_alone(site: HaproxySite) -> None:
    """A new file, a new process; it too is hardened, and watched."""
    text = rendered(site.config.parent, site.port, site.backend.port).read_text()
    assert not text.startswith("# hardened")
    takeover = ["-sf", str(site.process.pid), "-x", str(site.config.parent / "admin.sock")]
    reading, received = stream_in_background(site, 2.0)
    before = child_of(site)
    with (
        (site.config.parent / "second").open("wb") as output,
        subprocess.Popen(
            [WRAPPER, "-db", "-f", site.config, "-dR", *takeover], stdout=output, stderr=output
        ) as second,
    ):
        try:
            with asked_all_the_while(site) as given:
                assert site.process.wait(SOON_S) == 0
                assert reported_pid(site) == second.pid
                (killed,) = psutil.Process(second.pid).children()
                killed.kill()
                replaced(site, second.pid, killed)
                asked = len(given)
                wait_until(lambda: len(given) >= asked + 10)
                reading.join()
            assert [each for each in given if not isinstance(each, Answer)] == []
            assert b"".join(received).endswith(b"last\r\n0\r\n\r\n")
            assert reported_pid(site) == second.pid
            assert site.get("/", b"x-session-id: \xff").status == 400
            assert site.config.read_text().startswith("# hardened")
        finally:
            second.terminate()
    wait_until_gone(before)
    assert not list(site.config.parent.glob("admin.sock.*"))


def test_a_haproxy_that_waits_for_its_last_stream_takes_no_cpu(site: HaproxySite) -> None:
    """Ray asks while it reloads: what nobody answers any more must not wake it for ever, nor keep
    Ray waiting."""
    takeover = ["-sf", str(site.process.pid), "-x", str(site.config.parent / "admin.sock")]
    reading, received = stream_in_background(site, 4.0)
    before = child_of(site)
    rendered(site.config.parent, site.port, site.backend.port)
    with (
        administered_all_the_while(site),
        subprocess.Popen(
            [WRAPPER, "-db", "-f", site.config, "-dR", *takeover],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as second,
    ):
        try:
            assert site.process.poll() is None
            wait_until(lambda: f"Pid: {second.pid}\n" in admin(site, "show info"))
            time.sleep(0.2)
            idle_s = cpu_s_in(before, 1.0)
            assert reading.is_alive()
            assert idle_s < 0.2
        finally:
            reading.join()
            second.terminate()
    assert b"".join(received).endswith(b"last\r\n0\r\n\r\n")
    wait_until_gone(before)


@contextmanager
def administered_all_the_while(site: HaproxySite) -> Iterator[None]:
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            with suppress(OSError):
                admin(site, "show info")

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for each in asking:
        each.start()
    try:
        yield
    finally:
        over.set()
        for each in asking:
            each.join()


def cpu_s_in(process: psutil.Process, seconds: float) -> float:
    began = process.cpu_times()
    time.sleep(seconds)
    ended = process.cpu_times()
    return ended.user + ended.system - began.user - began.system


def test_a_stopped_one_leaves_nothing(site: HaproxySite) -> None:
    haproxy = child_of(site)
    site.process.terminate()
    site.process.wait(SOON_S)
    wait_until_gone(haproxy)
    assert not list(site.config.parent.glob("admin.sock.*"))


def test_words_that_are_not_rays_are_not_watched() -> None:
    assert words_of(["-db", "-f", "a", "-dR", "-sf", "1", "2", "-x", "b"]) == (
        Path("a"),
        "b",
        ("-db", "-dR", "-sf", "1", "2"),
    )
    for words in (["-f", "a"], ["-db"], ["-db", "-f", "a", "-c"], ["-db", "-f", "a", "-f", "b"]):
        with pytest.raises(NotWatchedError):
            words_of(words)


def test_another_template_starts_as_it_is(tmp_path: Path) -> None:
    """Without an admin socket nothing can be watched, and HAProxy is the process itself."""
    file = rendered(tmp_path)
    lines = [line for line in file.read_text().splitlines() if "stats socket" not in line]
    file.write_text("\n".join(lines) + "\n")
    with subprocess.Popen(
        [WRAPPER, "-db", "-f", file], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as started:
        try:
            assert started.stderr is not None
            assert any("HAProxy is not watched" in line for line in started.stderr)
            deadline_s = time.monotonic() + SOON_S
            # There is no command line in the moment of the change.
            while Path([*psutil.Process(started.pid).cmdline(), ""][0]).name != "haproxy":
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
        finally:
            started.kill()


class Answers(BaseHTTPRequestHandler):
    """A replica that has only its name to say."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.send_header("server-of", "other")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.timed
def test_nobody_waits_for_a_server_that_has_just_died(tmp_path: Path) -> None:
    """HAProxy waits a second before it tries again where it knows one server only."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with haproxy_site(tmp_path, other_port=other.server_address[1]) as site:
            wait_until(lambda: site.get("/pair/a").header("server-of"))
            with ThreadPoolExecutor(48) as clients:
                # With fewer streams than the other one, the dead server is asked first.
                streams = clients.map(site.get, ["/pair/stream/3"] * 24)
                wait_until(lambda: len(site.backend.heads) > 4)
                other.shutdown()
                other.server_close()
                answers = [*clients.map(site.get, ["/pair/b"] * 24)]
                assert all(stream.status == 200 for stream in streams)
    assert {answer.status for answer in answers} == {200}
    assert max(answer.elapsed_s for answer in answers) < 0.8
