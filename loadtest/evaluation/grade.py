"""Is an answer right? math-verify decides, in a process of its own.

Its time limits are signals, which a main thread needs, and some expressions (9^(9^9)) hold the
interpreter itself: from outside such a process can be ended.

`python -m loadtest.evaluation.grade` answers one JSON line for each that it reads.
"""

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from loadtest.report.results_file import REPOSITORY

# math-verify's own limit, for one expression or comparison.
EXPRESSION_LIMIT_S = 5
# An answer is at most a few of these; after it the process is replaced.
ANSWER_LIMIT_S = 20.0
# Answers are as long as models make them.
LINE_LIMIT_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class Grade:
    """`extracted` is None when no result was found; `note` says what kept it from being judged."""

    correct: bool
    extracted: str | None
    note: str | None = None


def grade(reference: str, answer: str) -> Grade:
    """Compare the last boxed or stated result of an answer with the reference. Main thread only."""
    from math_verify import verify

    found = _parsed(answer)
    if not found:
        return Grade(correct=False, extracted=None)
    correct = verify(_reference(reference), found, timeout_seconds=EXPRESSION_LIMIT_S)
    return Grade(correct=correct, extracted=str(found[-1]))


def group(answers: Sequence[str]) -> list[int | None]:
    """For each answer the place of the first one with an equal result; None without a result."""
    from math_verify import verify

    def equal(one: list[Any], other: list[Any]) -> bool:
        return verify(one, other, timeout_seconds=EXPRESSION_LIMIT_S)

    first: list[tuple[int, list[Any]]] = []
    by_text: dict[str, int] = {}
    places: list[int | None] = []
    for place, answer in enumerate(answers):
        found = _parsed(answer)
        if not found:
            places.append(None)
            continue
        text = str(found[-1])
        if text not in by_text:
            by_text[text] = next((p for p, other in first if equal(other, found)), place)
            if by_text[text] == place:
                first.append((place, found))
        places.append(by_text[text])
    return places


def _parsed(answer: str) -> list[Any]:
    from math_verify import parse

    return parse(answer, parsing_timeout=EXPRESSION_LIMIT_S)


def _reference(reference: str) -> list[Any]:
    # Without the dollars `\frac` and `\text` would be taken for prose.
    return _parsed(f"${reference}$") or [reference]


class Grader:
    """The grading process; made at the first question, replaced when one is too much for it."""

    def __init__(self, answer_limit_s: float = ANSWER_LIMIT_S) -> None:
        self._limit_s = answer_limit_s
        self._process: asyncio.subprocess.Process | None = None
        self._one_at_a_time = asyncio.Lock()

    async def grade(self, reference: str, answer: str) -> Grade:
        reply = await self._ask({"reference": reference, "answer": answer})
        if reply is None:
            return Grade(correct=False, extracted=None, note="the grader gave up on this answer")
        return Grade(**reply)

    async def group(self, answers: Sequence[str]) -> list[int | None]:
        """Where the grader gives up, each answer stands for itself."""
        reply = await self._ask({"group": list(answers)})
        return list(range(len(answers))) if reply is None else reply

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def _ask(self, question: dict[str, Any]) -> Any:
        async with self._one_at_a_time:
            process = self._process or await self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                async with asyncio.timeout(self._limit_s):
                    process.stdin.write(json.dumps(question).encode() + b"\n")
                    await process.stdin.drain()
                    line = await process.stdout.readline()
                return json.loads(line)
            # What a process leaves that died of an answer: a closed pipe, or half a line.
            except (TimeoutError, ConnectionError, ValueError):
                await self._end()
                return None
            except asyncio.CancelledError:
                # Its reply would be taken for the next question's.
                await self._end()
                raise

    async def _start(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtest.evaluation.grade"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # How it died of an answer is noted with that answer.
            stderr=asyncio.subprocess.DEVNULL,
            cwd=REPOSITORY,
            limit=LINE_LIMIT_BYTES,
            # Ctrl-C is for the evaluation, which ends this process itself.
            start_new_session=True,
        )
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def main() -> None:
    # Answers that do not parse are counted, not logged one by one.
    logging.disable(logging.ERROR)
    for line in sys.stdin:
        question = json.loads(line)
        if "group" in question:
            reply = group(question["group"])
        else:
            judged = grade(question["reference"], question["answer"])
            reply = {"correct": judged.correct, "extracted": judged.extracted}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
