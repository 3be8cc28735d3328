"""`python -m loadtest eval`: a dataset asked of one served model, graded and summed up."""

import argparse
import asyncio
import importlib.util
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.evaluation import options as common
from loadtest.evaluation.ask import make_client
from loadtest.evaluation.datasets import load
from loadtest.evaluation.faults import EvaluationFault
from loadtest.evaluation.grade import Grader
from loadtest.evaluation.page import page
from loadtest.evaluation.progress import showing
from loadtest.evaluation.run_dir import SUMMARY, SUMMARY_PAGE
from loadtest.evaluation.server import choose_model
from loadtest.evaluation.side import open_side

INTERRUPTED = 130
# What the extra `eval` brings and nothing else does.
EXTRA = ("math_verify", "matplotlib", "openai")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "eval",
        help="accuracy, tokens and latency of a served model on mathematics problems",
        description="Asks an OpenAI server each problem as one streamed chat completion, without "
        "examples, and compares the results with math-verify. Writes answers.jsonl as they come, "
        "and summary.json and summary.md at the end. See docs/evaluation.md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--base-url",
        type=common.base_url,
        default="http://127.0.0.1:8000/api/reasoning/v1",
        help="of any OpenAI server, its /v1 included",
    )
    add("--model", help="the first that the server lists, if not given")
    add("--out", type=Path, help="loadtest/results/eval/DATASET-MODEL-DATE if not given")
    common.add_asking(parser, runs=5)


def run(options: argparse.Namespace, console: Console) -> int:
    return ending_well(lambda: evaluate(options, console), console)


def ending_well(work: Callable[[], Coroutine[Any, Any, int]], console: Console) -> int:
    """The exit code; a user's fault is one sentence."""
    try:
        _refuse_without_extra()
        return asyncio.run(work())
    except EvaluationFault as fault:
        console.print(str(fault), style="bold red", highlight=False, markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("Stopped; the same command goes on.", style="yellow")
        return INTERRUPTED


def _refuse_without_extra() -> None:
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise EvaluationFault(
            f"Not installed: {', '.join(missing)}. Run `make setup`, or pip install with the extra "
            "`eval`."
        )


async def evaluate(options: argparse.Namespace, console: Console) -> int:
    dataset, sampling = load(options.dataset, options.limit), common.sampling_of(options)
    k = common.majority_of(options)
    async with (
        make_client(options.base_url, common.api_key(options)) as client,
        Grader() as grader,
    ):
        model = await choose_model(client, options.model)
        out = options.out or common.default_folder(dataset.name, model)
        side = open_side(
            options,
            sampling,
            dataset,
            client=client,
            model=model,
            out=out,
            base_url=options.base_url,
        )
        with side.folder.appending(), showing(console) as progress:
            line = side.line(progress, dataset.name)
            async with side.watched():
                await side.runner(grader, line.add).run(side.missing())
        document = await side.finish(grader, k)
    console.print(page(document), markup=False, highlight=False, soft_wrap=True)
    console.print(f"wrote {side.folder.path / SUMMARY} and {SUMMARY_PAGE}", soft_wrap=True)
    return 0
