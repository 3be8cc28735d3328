"""One served model under evaluation: `eval` has one, `compare` two, `budget-curve` one a budget."""

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from rich.console import Console
from rich.progress import Progress

from loadtest.client.server_info import memory_bytes, metrics_of, models_of, start_s_of, tiers_of
from loadtest.errors import UserError
from loadtest.evaluation.ask import Answer, Asker
from loadtest.evaluation.datasets import Dataset
from loadtest.evaluation.grade import Grader
from loadtest.evaluation.summary import Key, summarise, summary_page, take_votes
from loadtest.report.progress import bars
from loadtest.report.results_file import provenance, write
from loadtest.report.run_folder import RunFolder, read_document, read_lines

SETTINGS, ANSWERS = "settings.json", "answers.jsonl"
SUMMARY, SUMMARY_PAGE = "summary.json", "summary.md"
# A server that refuses the first requests for what is in them refuses all the others too.
REFUSALS_BEFORE_STOP = 5
SAMPLE_PERIOD_S = 5.0


def open_evaluation(
    options: argparse.Namespace,
    asker: Asker,
    dataset: Dataset,
    out: Path,
    **more_settings: Any,
) -> "Evaluation":
    """In a new folder, or going on in one with the very same settings, `more_settings` among them.
    Raises UserError."""
    settings = {
        "base_url": asker.api,
        "model": asker.model,
        "dataset": dataset.name,
        "problems": len(dataset.problems),
        "problems_sha256": dataset.fingerprint,
        "runs": options.runs,
        "concurrency": options.concurrency,
        "sampling": asker.sampling.as_dict(),
        **more_settings,
    }
    answers = Answers.open(out, settings, resume=options.resume)
    usage = ServerUsage(**(answers.summary or {}).get("server", {}))
    return Evaluation(answers, dataset, asker, usage)


@dataclass(slots=True)
class ServerUsage:
    """None is not reported. Memory is the largest that was seen, in bytes, of the process that
    reports it: host memory, not a GPU's."""

    load_s: float | None = None
    memory_peak_bytes: float | None = None


@dataclass(slots=True)
class Evaluation:
    """The answers so far, who asks for more, and what the server reports of itself meanwhile."""

    answers: "Answers"
    dataset: Dataset
    asker: Asker
    usage: ServerUsage

    @property
    def problems(self) -> list[str]:
        return [problem.id for problem in self.dataset.problems]

    @property
    def runs(self) -> int:
        return self.answers.settings["runs"]

    def missing(self) -> list[Key]:
        """What is still to be asked, run after run; requests that failed are sent again."""
        known = self.answers.by_key
        return [
            (problem, run)
            for run in range(self.runs)
            for problem in self.problems
            if not ((answer := known.get((problem, run))) and answer.answered)
        ]

    async def run(
        self, keys: Sequence[Key], grader: Grader, on_answer: Callable[[Answer], None]
    ) -> None:
        """A fixed number of requests at a time. The first error that is no single request's ends
        it; what was answered is kept. `on_answer` sees each answer, failed ones too."""
        problems = {problem.id: problem for problem in self.dataset.problems}
        waiting = iter(keys)

        async def grade_and_add(answer: Answer) -> None:
            if answer.answered and not answer.empty:
                grade = await grader.grade(problems[answer.problem].answer, answer.text)
                answer.correct, answer.extracted = grade.correct, grade.extracted
                answer.grade_note = grade.note
            self.answers.add(answer)
            on_answer(answer)
            self._stop_if_all_are_refused(answer)

        async def ask_on(tasks: asyncio.TaskGroup) -> None:
            for problem, run in waiting:
                answer = await self.asker.ask(problems[problem], run)
                # Apart, so that an expression that takes seconds to judge delays no request.
                tasks.create_task(grade_and_add(answer))

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(self.answers.settings["concurrency"], len(keys))):
                    tasks.create_task(ask_on(tasks))
        except BaseExceptionGroup as group:
            errors = group.subgroup(UserError)
            if errors is None:
                raise
            raise errors.exceptions[0] from None

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Before, and meanwhile every few seconds, the server is asked for its load time and
        memory."""
        await look(self.asker, self.usage)
        watching = asyncio.create_task(self._look_again())
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_PERIOD_S)
            await look(self.asker, self.usage)

    async def finish(self, grader: Grader, k: int) -> dict[str, Any]:
        """Sum up, and write it beside the answers."""
        votes = await take_votes(self.answers.by_key, self.problems, k, grader)
        document = {
            "meta": provenance(),
            "settings": self.answers.settings,
            **summarise(self.answers.by_key, self.problems, self.runs, votes, k),
            "server": asdict(self.usage),
        }
        write(self.answers.path / SUMMARY, document)
        (self.answers.path / SUMMARY_PAGE).write_text(summary_page(document), encoding="utf-8")
        return document

    def _stop_if_all_are_refused(self, answer: Answer) -> None:
        if answer.error is None or not answer.error.startswith("4") or answer.error == "429":
            return
        answers = self.answers.by_key.values()
        if len(answers) >= REFUSALS_BEFORE_STOP and not any(a.answered for a in answers):
            raise UserError(f"The server refuses every request: {answer.error} {answer.error_text}")


@dataclass(slots=True)
class Answers:
    """The folder of one evaluation; `by_key` is by (problem, run), and a later line replaces an
    earlier one."""

    path: Path
    settings: Mapping[str, Any]
    by_key: dict[Key, Answer] = field(default_factory=dict)
    _folder: RunFolder | None = None

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any], *, resume: bool = True) -> Self:
        """A new folder, or one that holds answers under the very same settings."""
        if not (path / SETTINGS).exists():
            if path.exists() and any(path.iterdir()):
                raise UserError(f"{path} is not empty and no evaluation; name another --out.")
            write(path / SETTINGS, settings)
            return cls(path, settings)
        found = cls.read(path)
        _refuse_others(path, found.settings, settings)
        if found.by_key and not resume:
            raise UserError(
                f"{path} has {len(found.by_key)} answers; go on with --resume, or name another "
                "--out."
            )
        return found

    @classmethod
    def read(cls, path: Path) -> Self:
        """A folder as it is, to be compared."""
        found = cls(path, read_document(path, SETTINGS, "evaluation"))
        try:
            for row in read_lines(path, ANSWERS):
                answer = Answer.from_dict(row)
                found.by_key[answer.problem, answer.run] = answer
        except (TypeError, AttributeError) as error:
            raise UserError(f"{path / ANSWERS} has a line that is no answer: {error}.") from None
        return found

    @property
    def summary(self) -> dict[str, Any] | None:
        """As it was written last; None if it never was."""
        if not (self.path / SUMMARY).exists():
            return None
        return read_document(self.path, SUMMARY, "evaluation")

    @contextlib.contextmanager
    def appending(self) -> Iterator[Self]:
        """While it is open no other process adds to the folder."""
        with RunFolder(self.path) as self._folder:
            self._folder.open(ANSWERS)
            yield self
        self._folder = None

    def add(self, answer: Answer) -> None:
        assert self._folder is not None
        self._folder.add(ANSWERS, answer.as_dict())
        self.by_key[answer.problem, answer.run] = answer


def _refuse_others(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    # The sampling's settings beside the others, so that a message can name the one.
    old, new = ({**of, "sampling": None, **of.get("sampling", {})} for of in (there, here))
    other = [
        f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if other:
        raise UserError(
            f"{path} holds an evaluation with other settings: {'; '.join(other)}. "
            "Name another --out."
        )


async def choose_model(http: aiohttp.ClientSession, api: str, named: str | None) -> str:
    """The named model if the server has it or lists none, else its first one. Raises UserError."""
    names = await models_of(http, api)
    if names is None and named is None:
        raise UserError(f"{api}/models is no OpenAI list of models: name one with --model.")
    if named is None and not names:
        raise UserError(f"{api} serves no model.")
    if named is not None and names is not None and named not in names:
        raise UserError(f"{api} has no model {named!r}; it serves {', '.join(names) or 'none'}.")
    return named or (names or [""])[0]


async def look(asker: Asker, usage: ServerUsage) -> None:
    tiers = await tiers_of(asker.http, asker.api) or {}
    tier = tier_of(tiers.values(), urlsplit(asker.api).path, asker.model)
    usage.load_s = start_s_of(tier) or usage.load_s
    seen = memory_bytes(await metrics_of(asker.http, asker.api), tier.get("tier"))
    usage.memory_peak_bytes = max(filter(None, (usage.memory_peak_bytes, seen)), default=None)


def tier_of(tiers: Iterable[Mapping[str, Any]], path: str, model: str) -> Mapping[str, Any]:
    """The tier below whose URL the requests go, else the one that is or serves the model."""
    for tier in tiers:
        if path.startswith(f"{tier.get('url')}/") or path == tier.get("url"):
            return tier
    return next((tier for tier in tiers if model in (tier.get("tier"), tier.get("model"))), {})


def showing(console: Console) -> Progress:
    return bars(console, "{task.fields[correct]} correct, {task.fields[speed]} tokens/s")


class Line:
    """One evaluation's bar. Answers of earlier days count for accuracy, not for speed."""

    def __init__(self, progress: Progress, name: str, evaluation: Evaluation) -> None:
        self._progress = progress
        answers = [a for a in evaluation.answers.by_key.values() if a.answered]
        self._asked, self._correct = len(answers), sum(a.correct for a in answers)
        self._tokens, self._began_s = 0, time.monotonic()
        self._task = progress.add_task(
            name,
            total=len(evaluation.problems) * evaluation.runs,
            completed=len(answers),
            correct=self._accuracy,
            speed="--",
        )

    def add(self, answer: Answer) -> None:
        self._asked += 1
        self._correct += answer.correct
        self._tokens += answer.completion_tokens or 0
        speed = self._tokens / (time.monotonic() - self._began_s)
        self._progress.update(self._task, advance=1, correct=self._accuracy, speed=f"{speed:,.0f}")

    @property
    def _accuracy(self) -> str:
        return f"{self._correct / self._asked:.1%}" if self._asked else "--"
