"""What an answer to a client's fault must be, and what must not be in it."""

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.hostile.wire import Answer

# Words of the server's own code: of no use to a client, and of some to an attacker.
INTERNALS = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|object has no attribute|NoneType|<class '|"
    r" object at 0x|pydantic|xgrammar|xgr::|llguidance|starlette|fastapi|uvicorn|asyncio|"
    r"EngineCore|EngineDead|RayTask|ray::|ray\.serve|\bvllm[./:]|(?:Key|Type|Value|Attribute|"
    r"Index|Overflow|Recursion|Unicode\w+|Assertion)Error|validation errors? for [A-Z]|"
    r"codec can't|unhashable|'type': '|\('body'|core dumped|std::"
)
# In a fault, between what is wrong and how it read.
DETAIL = " | "
# A message names the field and the limit; what the client sent it has already.
LONGEST_ERROR_BYTES = 4096
FIELDS = frozenset({"message", "type", "param", "code"})
OPENAI_TYPES = frozenset(
    {
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "rate_limit_error",
        "request_too_large",
    }
)


def faults_of(
    answer: Answer, *, anthropic: bool = False, outside_http: bool = False, bodiless: bool = False
) -> list[str]:
    """What is not as promised. `outside_http`: what was sent is no HTTP, or more of it than a
    proxy takes, so any 4xx, or an end of the connection, is an answer."""
    if answer.status == 0:
        ended = outside_http and not answer.error.startswith("no end")
        return [] if ended else [f"no answer{DETAIL}{answer.error}"]
    return [
        *_faults_of_status(answer),
        *_faults_of_id(answer, at_most=outside_http),
        *([] if outside_http or bodiless else _faults_of_body(answer, anthropic=anthropic)),
        *([f"the answer broke off{DETAIL}{answer.error}"] if answer.error else []),
    ]


def _faults_of_status(answer: Answer) -> Iterator[str]:
    if answer.status >= 500:
        yield f"{answer.status}{DETAIL}{answer.text[:300]}"
    elif not 200 <= answer.status < 300 and answer.status < 400:
        yield f"{answer.status}, neither an answer nor a refusal"
    elif answer.status == 429 and not answer.values("retry-after"):
        yield "429 without Retry-After"


def _faults_of_id(answer: Answer, *, at_most: bool) -> Iterator[str]:
    given = answer.values("x-request-id")
    if len(given) > 1 or (not given and not at_most) or any("," in value for value in given):
        yield f"{len(given)} x-request-id with {answer.status}{DETAIL}{given}"


def _faults_of_body(answer: Answer, *, anthropic: bool) -> Iterator[str]:
    if answer.status >= 500:
        return
    if answer.status >= 400:
        yield from faults_of_error(answer, anthropic=anthropic)
    elif answer.content_type.startswith("text/event-stream"):
        yield from _faults_of_stream(answer.text)
    elif answer.body and answer.content_type.startswith("application/json"):
        try:
            json.loads(answer.body)
        except ValueError:
            yield f"200 with a body that is no JSON{DETAIL}{answer.text[:200]}"


def faults_of_error(answer: Answer, *, anthropic: bool) -> Iterator[str]:
    """An error answer in OpenAI's or Anthropic's form, short, and without a word of the code."""
    try:
        body: Any = answer.json()
        error = body["error"]
        missing = FIELDS - set(error)
    except (ValueError, KeyError, TypeError):
        yield f"{answer.status} is no error in the promised form{DETAIL}{answer.text[:300]}"
        return
    if missing or not isinstance(error["message"], str) or not error["message"]:
        yield f"{answer.status} without {missing or 'its message'}"
    if anthropic and body.get("type") != "error":
        yield f"{answer.status} is not in Anthropic's form{DETAIL}{answer.text[:200]}"
    if error.get("type") not in OPENAI_TYPES:
        yield f"{answer.status} with type {error.get('type')!r}"
    if len(answer.body) > LONGEST_ERROR_BYTES:
        yield f"{answer.status} is too long{DETAIL}{len(answer.body)} bytes, {answer.text[:200]}"
    if found := INTERNALS.search(str(error["message"])):
        yield f"{answer.status} speaks of {found[0]!r}{DETAIL}{str(error['message'])[:300]}"


def _faults_of_stream(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if not line.startswith("data: {") or '"error"' not in line:
            continue
        event = json.loads(line.removeprefix("data: "))
        error = event.get("error")
        if isinstance(error, dict) and error.get("type") in ("server_error", None):
            yield f"a stream that ends in a server's error{DETAIL}{line[:300]}"
        if isinstance(error, dict) and (found := INTERNALS.search(str(error.get("message")))):
            yield f"a stream that speaks of {found[0]!r}{DETAIL}{line[:300]}"
