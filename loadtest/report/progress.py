"""What is seen while a command runs: bars, or a table that is drawn anew."""

import asyncio
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

UNSEEN_PERIOD_S = 30.0


def bars(console: Console, note: str = "", *, count: bool = True) -> Progress:
    """Name, bar, count, `note` (text with fields of the task), and the time left."""
    columns = [TextColumn("{task.description}"), BarColumn(bar_width=24)]
    columns += [MofNCompleteColumn()] if count else []
    columns += [TextColumn(note)] if note else []
    return Progress(*columns, TimeRemainingColumn(), console=console)


async def show(
    console: Console,
    line: Callable[[], str],
    table: Callable[[], RenderableType],
    *,
    period_s: float,
    unseen_period_s: float = UNSEEN_PERIOD_S,
) -> None:
    """The table, or a line now and then where the output is no terminal, until it is cancelled."""
    if not console.is_terminal:
        while True:
            await asyncio.sleep(unseen_period_s)
            console.print(line(), soft_wrap=True, highlight=False, markup=False)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(table(), refresh=True)
            await asyncio.sleep(period_s)
