"""A stream as its client reads it: every event with its time, and what the events come to."""

import itertools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

DONE = "[DONE]"
# How each route says that a stream is whole: an event of its own, or one of this type.
_LAST_TYPES = frozenset({"message_stop", "response.completed", "response.incomplete"})
_TEXT_FIELDS = ("content", "reasoning", "refusal")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: `body` is streamed and greedy. `is_valid` judges the whole text of an answer."""

    kind: str
    path: str
    body: Mapping[str, Any]
    is_valid: Callable[["Stream"], bool] = lambda _: True


@dataclass(slots=True)
class Stream:
    """`events`: of each its time, in seconds of `time.monotonic`, and its data."""

    ask: Ask
    status: int = 0
    fault: str = ""
    events: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    began_s: float = 0.0
    ended_s: float | None = None
    _rest: str = ""

    def feed(self, text: str, now_s: float) -> None:
        *blocks, self._rest = (self._rest + text).split("\n\n")
        for block in blocks:
            data = [line[6:] for line in block.splitlines() if line.startswith("data: ")]
            if data:
                self.events.append((now_s, "\n".join(data)))

    @property
    def has_begun(self) -> bool:
        return len(self.events) > 1

    @property
    def took_s(self) -> float:
        """0 of one that runs."""
        return 0.0 if self.ended_s is None else self.ended_s - self.began_s

    @property
    def whole(self) -> bool:
        """Ended as the route promises, with no error on the way."""
        if self.fault or self.status != 200 or not self.events or self.errors:
            return False
        last = self.events[-1][1]
        return last == DONE or json.loads(last).get("type") in _LAST_TYPES

    @property
    def errors(self) -> list[Any]:
        return [event for event in self.parsed() if event.get("error")]

    def parsed(self) -> Iterator[dict[str, Any]]:
        return (json.loads(data) for _, data in self.events if data != DONE)

    @property
    def text(self) -> dict[str, str]:
        """By part: the choice's number and the field, `0.content`."""
        parts: dict[str, str] = defaultdict(str)
        for event in self.parsed():
            for name, piece in _pieces(event):
                parts[name] += piece
        return dict(parts)

    @property
    def usage(self) -> Any:
        """As the last event that has one says it; None where none has."""
        found = [event for event in map(_usage, self.parsed()) if event]
        return found[-1] if found else None

    @property
    def ids(self) -> set[str]:
        """Each stream has one."""
        return {event["id"] for event in self.parsed() if isinstance(event.get("id"), str)}

    @property
    def replays(self) -> int:
        """How often the service says that it was continued."""
        said = [event.get("tierserve") or {} for event in self.parsed()]
        return max((entry.get("replayed", 0) for entry in said), default=0)

    def gap_s(self, since_s: float, until_s: float) -> float:
        """The longest silence that ended after `since_s` and began before `until_s`; comments do
        not break it."""
        times = [at_s for at_s, _ in self.events]
        gaps = [b - a for a, b in itertools.pairwise(times) if b > since_s and a < until_s]
        return max(gaps, default=0.0)


async def read(session: aiohttp.ClientSession, base_url: str, stream: Stream) -> Stream:
    """Send the request and read its stream to the end; what goes wrong is in `stream`."""
    stream.began_s = time.monotonic()
    try:
        async with session.post(base_url + stream.ask.path, json=stream.ask.body) as response:
            stream.status = response.status
            decoded = (block.decode() async for block in response.content.iter_any())
            async for text in decoded:
                stream.feed(text, time.monotonic())
            if response.status != 200:
                stream.fault = f"{response.status}: {stream._rest[:300]}"
    except TimeoutError:
        stream.fault = "no end in time"
    except (aiohttp.ClientError, ConnectionError, UnicodeDecodeError) as error:
        stream.fault = repr(error)
    stream.ended_s = time.monotonic()
    return stream


def differences(broken: Stream, *unbroken: Stream) -> list[str]:
    """What a client of `broken` got otherwise than it would have; each in a few words. Where the
    engine itself does not repeat, as in batches of other sizes, any of `unbroken` will do."""
    return min((_differences(broken, each) for each in unbroken), key=len)


def _differences(broken: Stream, unbroken: Stream) -> list[str]:
    found: list[str] = []
    ours, theirs = broken.text, unbroken.text
    for name in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(name, ""), theirs.get(name, "")
        if one != other:
            at = _first_difference(one, other)
            found.append(
                f"{name} from character {at} on: {one[at : at + 40]!r} for {other[at : at + 40]!r}"
            )
    if broken.usage != unbroken.usage:
        found.append(f"usage {broken.usage} for {unbroken.usage}")
    if len(broken.ids) > 1 and len(unbroken.ids) == 1:
        found.append(f"ids {sorted(broken.ids)}")
    return found


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _pieces(event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Of OpenAI's chat and completions, Anthropic's messages and OpenAI's responses."""
    for choice in event.get("choices") or ():
        yield from _of_choice(choice)
    delta = event.get("delta")
    place = event.get("index", event.get("output_index", 0))
    if isinstance(delta, str):
        yield f"{place}.{event.get('type')}", delta
    elif isinstance(delta, Mapping):
        for name in ("text", "thinking", "partial_json", "stop_reason"):
            if isinstance(delta.get(name), str):
                yield f"{place}.{name}", delta[name]


def _of_choice(choice: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    index, delta = choice.get("index", 0), choice.get("delta") or {}
    for name in _TEXT_FIELDS:
        if isinstance(delta.get(name), str):
            yield f"{index}.{name}", delta[name]
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        place = f"{index}.call{call.get('index', 0)}"
        for name in ("name", "arguments"):
            if function.get(name):
                yield f"{place}.{name}", function[name]
    if isinstance(choice.get("text"), str):
        yield f"{index}.text", choice["text"]
    if choice.get("finish_reason"):
        yield f"{index}.finish_reason", choice["finish_reason"]
    if choice.get("logprobs"):
        tokens = choice["logprobs"].get("content") or ()
        yield f"{index}.logprobs", "".join(entry["token"] for entry in tokens)


def _usage(event: Mapping[str, Any]) -> Any:
    return event.get("usage") or (event.get("response") or {}).get("usage")


def percentile(values: Sequence[float], percent: int) -> float:
    """The nearest rank; 0 of no values."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else 0.0
