"""Says in the answer what the engine tells beside it: how each thought ended, and endless
repetition, which OpenAI's finish reasons have no word for."""

import json
import re
from collections.abc import Mapping
from typing import Any

from serve_app.api.endpoints import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.core.generation import Generation, SequenceFacts
from serve_app.core.reasoning.trace import ThoughtEnd

FIELD = "tierserve"
THOUGHT_HEADER = b"x-tierserve-thought"
_INDEX = re.compile(rb'"choices":\[\{"index":(\d+)')
_REPETITION = b'"finish_reason":"repetition"'
_STOP = b'"finish_reason":"stop"'
# Anthropic's word; vLLM has none for a repetition.
_NO_REASON, _END_TURN = b'"stop_reason":null', b'"stop_reason":"end_turn"'
_COMPLETED, _INCOMPLETE = b"response.completed", b"response.incomplete"


def ends_answer(body: bytes, endpoint: Endpoint) -> bool:
    """Whether this chunk of a stream is the last of an answer."""
    return endpoint.ending is not None and endpoint.ending in body


def in_chunk(body: bytes, endpoint: Endpoint, generation: Generation) -> bytes:
    """The last chunk of an answer with its facts, as a field of the event's object."""
    sequences = generation.sequences
    index = _INDEX.search(body)
    if endpoint in (CHAT_COMPLETIONS, COMPLETIONS) and index is not None:
        at = int(index[1])
        sequences = {at: sequences[at]} if at in sequences else {}
        body = body.replace(_REPETITION, _STOP)
    if endpoint is MESSAGES:
        body = body.replace(_NO_REASON, _END_TURN)
    if endpoint is RESPONSES:
        body = _named_by_its_status(body)
    told = _facts(sequences)
    if not told or not body.endswith(b"}\n\n"):
        return body
    addition = json.dumps({FIELD: told}, separators=(",", ":")).encode()
    return body[:-3] + b"," + addition[1:] + b"\n\n"


def in_whole(
    body: bytes, endpoint: Endpoint, generation: Generation
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """A JSON answer with its facts, and a header with how its thoughts ended."""
    told = _facts(generation.sequences)
    if not told and endpoint is not CHAT_COMPLETIONS:
        return body, []
    answer: dict[str, Any] = json.loads(body)
    for choice in answer.get("choices", ()):
        _mend(choice, generation.sequences.get(choice.get("index")))
    if endpoint is MESSAGES and answer.get("stop_reason", "") is None:
        answer["stop_reason"] = "end_turn"
    if told:
        answer[FIELD] = told
    ends = ", ".join(thought["end"] for thought in told.get("thoughts", ()))
    header = [(THOUGHT_HEADER, ends.encode())] if ends else []
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode(), header


def _named_by_its_status(body: bytes) -> bytes:
    """vLLM's last event of a response (vllm#45386), which is another one where it was cut."""
    event = json.loads(body.partition(b"data: ")[2])
    if event.get("response", {}).get("status") != "incomplete":
        return body
    for before, behind in ((b"event: ", b"\n"), (b'"type":"', b'"')):
        body = body.replace(before + _COMPLETED + behind, before + _INCOMPLETE + behind, 1)
    return body


def _mend(choice: dict[str, Any], facts: SequenceFacts | None) -> None:
    """OpenAI's clients know no `repetition`, and read `content` as text; vLLM calls an answer
    with calls whole that its limit has cut, but not a stream."""
    if facts is not None and facts.cut:
        choice["finish_reason"] = "length"
    if choice.get("finish_reason") == "repetition":
        choice["finish_reason"] = "stop"
    message = choice.get("message")
    if message is not None and message.get("content") is None and not message.get("tool_calls"):
        message["content"] = ""


def _facts(sequences: Mapping[int, SequenceFacts]) -> dict[str, Any]:
    thoughts = [
        {"index": index, "end": str(facts.thought.end), "tokens": facts.thought.tokens}
        for index, facts in sequences.items()
        if facts.thought is not None
    ]
    repeated = [index for index, facts in sequences.items() if facts.repeated]
    closed = [index for index, facts in sequences.items() if facts.closed]
    return {
        **({"thoughts": thoughts} if thoughts else {}),
        **(
            {"finish_reasons": {str(index): "repetition" for index in repeated}} if repeated else {}
        ),
        **({"closed": closed} if closed else {}),
    }


def was_cut(generation: Generation) -> bool:
    """Whether any thought of the request was closed for the model."""
    thoughts = (facts.thought for facts in generation.sequences.values())
    return any(thought is not None and thought.end is ThoughtEnd.CUT for thought in thoughts)
