"""The line that a request leaves in the log: whose key, and apart from it what its client says."""

import logging
from typing import Any

import pytest

from serve_app.api.request_record import MOST_USER_CHARS
from serve_app.core.generation import GENERATION, SequenceFacts
from tests.api.asgi import Answering, FakeEngine, answers, call
from tests.api.fake_keys import TEAM, FakeQuotas, a_fake_desk, bearer
from tests.builders import an_edge
from tests.virtual_time import run_virtual

DONE = {"choices": [], "object": "chat.completion"}


def counting(answering: Answering) -> Answering:
    """As vLLM does it: 11 tokens read, 7 written."""

    async def answer(payload: dict[str, Any], send: Any) -> None:
        generation = GENERATION.get()
        assert generation is not None
        generation.prompt_tokens = 11
        generation.sequences[0] = SequenceFacts(tokens=7)
        await answering(payload, send)

    return answer


def line_of(
    caplog: pytest.LogCaptureFixture, path: str = "", *, key: bytes | None = None, **payload: Any
) -> dict[str, Any]:
    edge = an_edge(FakeEngine(counting(answers(DONE))))
    if key is not None:
        edge.access = a_fake_desk(quotas=FakeQuotas())
    caplog.set_level(logging.INFO)
    asked = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, **payload}
    headers = [] if key is None else bearer(key)

    async def ask() -> None:
        assert (await call(edge, path, asked, headers=headers)).status == 200

    run_virtual(ask())
    return caplog.records[-1].__dict__


def test_the_keys_name_and_its_tokens_are_in_the_line(caplog: pytest.LogCaptureFixture) -> None:
    line = line_of(caplog, key=TEAM)
    assert (line["key"], line["prompt_tokens"], line["output_tokens"]) == ("team", 11, 7)
    assert "client_user" not in line
    assert TEAM.decode() not in str(line)


def test_without_a_key_there_is_no_name(caplog: pytest.LogCaptureFixture) -> None:
    assert "key" not in line_of(caplog)


@pytest.mark.parametrize(
    ("path", "payload"),
    [
        ("/v1/chat/completions", {"user": "boss"}),
        ("/v1/messages", {"metadata": {"user_id": "boss"}}),
    ],
)
def test_whom_the_client_names_is_kept_apart_and_is_no_key(
    caplog: pytest.LogCaptureFixture, path: str, payload: dict[str, Any]
) -> None:
    line = line_of(caplog, path, key=TEAM, **payload)
    assert (line["key"], line["client_user"]) == ("team", "boss")


def test_what_the_client_says_of_its_user_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    assert line_of(caplog, user="x" * 2000)["client_user"] == "x" * MOST_USER_CHARS


@pytest.mark.parametrize("user", [None, ""])
def test_a_user_who_is_nobody_is_not_logged(
    caplog: pytest.LogCaptureFixture, user: str | None
) -> None:
    assert "client_user" not in line_of(caplog, user=user)
