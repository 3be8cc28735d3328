"""What is seen while an evaluation runs: done, accuracy so far, tokens a second, time left."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from loadtest.evaluation.answer import Answer

COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(bar_width=24),
    MofNCompleteColumn(),
    TextColumn("{task.fields[correct]} correct"),
    TextColumn("{task.fields[speed]} tokens/s"),
    TimeRemainingColumn(),
)


class Line:
    """One evaluation's line. Answers of earlier days count for accuracy, not for speed."""

    def __init__(self, progress: Progress, name: str, total: int, known: Iterable[Answer]) -> None:
        self._progress = progress
        answers = [a for a in known if a.answered]
        self._asked, self._correct = len(answers), sum(a.correct for a in answers)
        self._tokens, self._began_s = 0, time.monotonic()
        self._task = progress.add_task(
            name, total=total, completed=len(answers), correct=self._accuracy, speed="--"
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


@contextmanager
def showing(console: Console) -> Iterator[Progress]:
    with Progress(*COLUMNS, console=console) as progress:
        yield progress
