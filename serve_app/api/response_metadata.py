"""Writes into the response what the engine reports beside it: how each answer's reasoning ended,
and endless repetition, which OpenAI's finish reasons have no word for."""

import json
import re
from collections.abc import Mapping
from typing import Any

from serve_app.api.policy_report import count_all, policy_report
from serve_app.api.routes import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.core.generation import Generation, SequenceFacts
from serve_app.core.reasoning.deadline import BY_DEADLINE, BY_QUEUE
from serve_app.core.reasoning.trace import ThoughtEnd

FIELD = "tierserve"
REASONING_HEADER = b"x-tierserve-thought"
_INDEX = re.compile(rb'"choices":\[\{"index":(\d+)')
_REPETITION = b'"finish_reason":"repetition"'
_STOP = b'"finish_reason":"stop"'
# Anthropic's word; vLLM has none for a repetition.
_NO_REASON, _END_TURN = b'"stop_reason":null', b'"stop_reason":"end_turn"'
_COMPLETED, _INCOMPLETE = b"response.completed", b"response.incomplete"


def in_chunk(body: bytes, endpoint: Endpoint, generation: Generation, replays: int = 0) -> bytes:
    """The last chunk of an answer with its metadata, as a field of the event's object; `replays`
    counts the times that it went on at another replica."""
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
    metadata = {
        **_metadata(generation, sequences),
        **_deadline(generation),
        **({"replayed": replays} if replays else {}),
    }
    if not metadata or not body.endswith(b"}\n\n"):
        return body
    addition = json.dumps({FIELD: metadata}, separators=(",", ":")).encode()
    return body[:-3] + b"," + addition[1:] + b"\n\n"


def in_whole(
    body: bytes, endpoint: Endpoint, generation: Generation
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """A JSON answer with its metadata, and a header with how its reasoning ended."""
    metadata = {**_metadata(generation, generation.sequences), **_deadline(generation)}
    if not metadata and endpoint is not CHAT_COMPLETIONS:
        return body, []
    answer: dict[str, Any] = json.loads(body)
    for choice in answer.get("choices", ()):
        _in_openais_words(choice, generation.sequences.get(choice.get("index")))
    if endpoint is MESSAGES and answer.get("stop_reason", "") is None:
        answer["stop_reason"] = "end_turn"
    if metadata:
        answer[FIELD] = metadata
    if generation.unseen and isinstance(answer.get("usage"), dict):
        count_all(answer["usage"], generation)
    ends = ", ".join(thought["end"] for thought in metadata.get("thoughts", ()))
    header = [(REASONING_HEADER, ends.encode())] if ends else []
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode(), header


def _named_by_its_status(body: bytes) -> bytes:
    """vLLM's last event of a response (vllm#45386), which is another one where it was truncated."""
    event = json.loads(body.partition(b"data: ")[2])
    if event.get("response", {}).get("status") != "incomplete":
        return body
    for before, behind in ((b"event: ", b"\n"), (b'"type":"', b'"')):
        body = body.replace(before + _COMPLETED + behind, before + _INCOMPLETE + behind, 1)
    return body


def _in_openais_words(choice: dict[str, Any], sequence: SequenceFacts | None) -> None:
    """OpenAI's clients know no `repetition`, and read `content` as text; vLLM calls an answer
    with calls whole that its limit has truncated, but not a stream."""
    if sequence is not None and sequence.cut:
        choice["finish_reason"] = "length"
    if choice.get("finish_reason") == "repetition":
        choice["finish_reason"] = "stop"
    message = choice.get("message")
    if message is not None and message.get("content") is None and not message.get("tool_calls"):
        message["content"] = ""


def _metadata(generation: Generation, sequences: Mapping[int, SequenceFacts]) -> dict[str, Any]:
    policy = policy_report(generation)
    thoughts = [
        {
            "index": index,
            "end": str(of.thought.end),
            "tokens": of.thought.tokens,
            **({} if of.thought.cut_by is None else {"cut_by": of.thought.cut_by}),
        }
        for index, of in sequences.items()
        if of.thought is not None
    ]
    repeated = [index for index, of in sequences.items() if of.repeated]
    closed = [index for index, of in sequences.items() if of.closed]
    return {
        **({"thoughts": thoughts} if thoughts else {}),
        **(
            {"finish_reasons": {str(index): "repetition" for index in repeated}} if repeated else {}
        ),
        **({"closed": closed} if closed else {}),
        **({"answer_policy": policy} if policy else {}),
    }


def _deadline(generation: Generation) -> dict[str, Any]:
    """Whether the answer's deadline is met as it is sent, and what of it was cut for that."""
    time = generation.time
    if time is None:
        return {}
    cuts = cut_by_deadline(generation)
    return {"deadline": {"deadline_ms": time.deadline_ms, "met": time.met, "cut": cuts}}


def cut_by_deadline(generation: Generation) -> list[str]:
    """`reasoning`: left out, or closed before its own budget; `answer`: ended before its own
    limit."""
    time, sequences = generation.time, generation.sequences.values()
    if time is None or time.plan is None:
        return []
    plan = time.plan
    closed = any(of.thought is not None and of.thought.end is ThoughtEnd.CUT for of in sequences)
    enders = (BY_DEADLINE, BY_QUEUE)
    stopped = any(of.thought is not None and of.thought.cut_by in enders for of in sequences)
    is_direct = generation.journal is not None and generation.journal.direct
    left_out = is_direct or (plan.reasoning_cut and plan.reasoning_tokens is None)
    reasoning = left_out or stopped or (plan.reasoning_cut and closed)
    answer = time.answer_cut or (plan.answer_cut and any(of.cut for of in sequences))
    return [*(["reasoning"] if reasoning else []), *(["answer"] if answer else [])]
