"""Asks what is missing, a fixed number of requests at a time, grades it and writes it down."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from loadtest.evaluation.answer import Answer
from loadtest.evaluation.ask import Asker
from loadtest.evaluation.datasets import Problem
from loadtest.evaluation.faults import EvaluationFault
from loadtest.evaluation.grade import Grader
from loadtest.evaluation.run_dir import Key, RunDir

# A server that refuses the first requests for what is in them refuses all the others too.
REFUSALS_BEFORE_STOP = 5


@dataclass(frozen=True, slots=True)
class Runner:
    """`on_answer` sees each answer, failed ones too, after it was written down."""

    asker: Asker
    grader: Grader
    folder: RunDir
    problems: Mapping[str, Problem]
    concurrency: int
    on_answer: Callable[[Answer], None] = lambda answer: None

    async def run(self, keys: Sequence[Key]) -> None:
        """The first fault that is no single request's ends it; what was answered is kept."""
        waiting = iter(keys)
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(self.concurrency, len(keys))):
                    tasks.create_task(self._ask_on(waiting, tasks))
        except BaseExceptionGroup as group:
            faults = group.subgroup(EvaluationFault)
            if faults is None:
                raise
            raise faults.exceptions[0] from None

    async def _ask_on(self, waiting: Iterator[Key], tasks: asyncio.TaskGroup) -> None:
        for problem, run in waiting:
            answer = await self.asker.ask(self.problems[problem], run)
            # Apart, so that an expression that takes seconds to judge delays no request.
            tasks.create_task(self._grade_and_add(answer))

    async def _grade_and_add(self, answer: Answer) -> None:
        if answer.answered and not answer.empty:
            grade = await self.grader.grade(self.problems[answer.problem].answer, answer.text)
            answer.correct, answer.extracted = grade.correct, grade.extracted
            answer.grade_note = grade.note
        self.folder.add(answer)
        self.on_answer(answer)
        self._stop_if_all_are_refused(answer)

    def _stop_if_all_are_refused(self, answer: Answer) -> None:
        if answer.error is None or not answer.error.startswith("4") or answer.error == "429":
            return
        answers = self.folder.answers.values()
        if len(answers) >= REFUSALS_BEFORE_STOP and not any(a.answered for a in answers):
            raise EvaluationFault(
                f"The server refuses every request: {answer.error} {answer.error_text}"
            )
