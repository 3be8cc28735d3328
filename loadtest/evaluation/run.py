"""One served model under evaluation: `eval` has one, `compare` two, `budget-curve` one a budget."""

import argparse
import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from loadtest.evaluation import options as common
from loadtest.evaluation.answer import Answer
from loadtest.evaluation.ask import Asker, Sampling
from loadtest.evaluation.datasets import Dataset
from loadtest.evaluation.grade import Grader
from loadtest.evaluation.page import page
from loadtest.evaluation.progress import Line
from loadtest.evaluation.run_dir import SUMMARY, SUMMARY_PAGE, Key, RunDir
from loadtest.evaluation.runner import Runner
from loadtest.evaluation.server import ServerFacts, watch
from loadtest.evaluation.summary import summarise, take_votes
from loadtest.results_file import commit, machine, write

if TYPE_CHECKING:
    from openai import AsyncOpenAI


def open_side(
    options: argparse.Namespace,
    sampling: Sampling,
    dataset: Dataset,
    *,
    client: "AsyncOpenAI",
    model: str,
    out: Path,
    base_url: str,
) -> "Side":
    settings = common.settings_of(options, sampling, dataset, base_url=base_url, model=model)
    folder = RunDir.open(out, settings, resume=options.resume)
    facts = ServerFacts(**(folder.summary or {}).get("server", {}))
    return Side(folder, dataset, Asker(client, model, sampling, options.retries), facts)


@dataclass(slots=True)
class Side:
    """The folder of answers, who asks for them, and what the server tells of itself meanwhile."""

    folder: RunDir
    dataset: Dataset
    asker: Asker
    facts: ServerFacts

    @property
    def problems(self) -> list[str]:
        return [problem.id for problem in self.dataset.problems]

    @property
    def runs(self) -> int:
        return self.folder.settings["runs"]

    def missing(self) -> list[Key]:
        return self.folder.missing(self.problems, self.runs)

    def line(self, progress: Progress, name: str) -> Line:
        total = len(self.dataset.problems) * self.runs
        return Line(progress, name, total, self.folder.answers.values())

    def runner(self, grader: Grader, on_answer: Callable[[Answer], None]) -> Runner:
        problems = {problem.id: problem for problem in self.dataset.problems}
        return Runner(
            self.asker,
            grader,
            self.folder,
            problems,
            self.folder.settings["concurrency"],
            on_answer,
        )

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Meanwhile the server is asked for its load time and memory."""
        base_url, model = self.folder.settings["base_url"], self.asker.model
        watching = asyncio.create_task(watch(base_url, model, self.facts))
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def finish(self, grader: Grader, k: int) -> dict[str, Any]:
        """Sum up, and write it beside the answers."""
        answers, problems = self.folder.answers, self.problems
        votes = await take_votes(answers, problems, k, grader)
        document = {
            "meta": meta(),
            "settings": self.folder.settings,
            **summarise(answers, problems, self.runs, votes, k),
            "server": self.facts.as_dict(),
        }
        write(self.folder.path / SUMMARY, document)
        (self.folder.path / SUMMARY_PAGE).write_text(page(document), encoding="utf-8")
        return document


def meta() -> dict[str, Any]:
    """When and on which machine the client ran; the server may be elsewhere."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
    }
