"""What of the log a person sees while the service runs."""

import json

from serve_app.api import request_record
from serve_app.local.worker_logs import REQUEST_LOGGER, LogFeed, as_text


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def line(level: str = "INFO", message: str = "request", **more: object) -> str:
    logger = REQUEST_LOGGER if message == "request" else "serve_app.api.edge"
    return json.dumps({"level": level, "logger": logger, "message": message, **more})


def test_the_request_logger_is_the_one_that_logs_requests() -> None:
    assert request_record.log.name == REQUEST_LOGGER


def test_requests_do_not_bury_what_is_on_the_terminal() -> None:
    feed = LogFeed(Clock())
    assert feed.take([line(status=200)] * 500 + [line("WARNING", "request")]) == []
    assert feed.take([line(message="live settings taken")]) == []


def test_all_lines_are_shown_to_who_asks_for_them() -> None:
    lines = [line(status=200), line("ERROR", "broken")]
    assert LogFeed(Clock(), everything=True).take(lines) == lines


def test_a_warning_is_said_as_text() -> None:
    reported = line("WARNING", "settings  refused:\nmax_wait_s", tier="chat")
    assert LogFeed(Clock()).take([reported]) == ["WARNING chat: settings refused: max_wait_s"]


def test_an_error_is_said_with_its_last_exception() -> None:
    trace = "Traceback (most recent call last):\n  File x\nValueError: 7"
    fields = {"level": "ERROR", "logger": "vllm", "message": "failed", "exc_info": trace}
    assert as_text(fields) == "ERROR vllm: failed ValueError: 7"
    assert len(as_text({"level": "ERROR", "message": "x" * 9999})) < 500


def test_a_second_has_one_line_at_most_and_its_worst_one() -> None:
    clock = Clock()
    feed = LogFeed(clock)
    burst = [line("WARNING", "slow"), line("ERROR", "dead"), line("WARNING", "slow")]
    assert feed.take(burst) == ["ERROR serve_app.api.edge: dead (and 2 more in the logs)"]
    clock.now_s += 0.5
    assert feed.take([line("WARNING", "late")]) == []
    clock.now_s += 0.5
    assert feed.take([]) == ["WARNING serve_app.api.edge: late"]
    clock.now_s += 5
    assert feed.take([]) == []


def test_what_is_no_log_line_is_not_shown() -> None:
    assert LogFeed(Clock()).take(["{no json", "{}", '{"level": "ERROR"}']) == []
