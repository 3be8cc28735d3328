"""`python -m loadtest eval`: a dataset asked of one served model, graded and summed up."""

import argparse
import asyncio
from pathlib import Path

from rich.console import Console

from loadtest.evaluation.ask import Asker, open_evaluation_session
from loadtest.evaluation.datasets import load
from loadtest.evaluation.grade import Grader
from loadtest.evaluation.options import (
    RESUMABLE,
    add_asking,
    add_server,
    majority_of,
    refuse_without_extra,
    sampling_of,
)
from loadtest.evaluation.run import (
    SUMMARY,
    SUMMARY_PAGE,
    Line,
    choose_model,
    open_evaluation,
    showing,
)
from loadtest.evaluation.summary import summary_page
from loadtest.options import api_key_of
from loadtest.report.run_folder import default_folder

ON_INTERRUPT = RESUMABLE
DESCRIPTION = (
    "Asks an OpenAI server each problem as one streamed chat completion, without "
    "examples, and compares the results with math-verify. Writes answers.jsonl as they come, "
    "and summary.json and summary.md at the end. See docs/evaluation.md."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add_server(parser)
    parser.add_argument(
        "--out", type=Path, help="loadtest/results/eval/DATASET-MODEL-DATE if not given"
    )
    add_asking(parser, runs=5)


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    refuse_without_extra()
    return asyncio.run(evaluate(options, console))


async def evaluate(options: argparse.Namespace, console: Console) -> int:
    dataset, sampling = load(options.dataset, options.limit), sampling_of(options)
    k = majority_of(options)
    async with open_evaluation_session(api_key_of(options)) as http, Grader() as grader:
        model = await choose_model(http, options.base_url, options.model)
        out = options.out or default_folder("eval", dataset.name, model, to_the_day=True)
        asker = Asker(http, options.base_url, model, sampling, options.retries)
        evaluation = open_evaluation(options, asker, dataset, out)
        with evaluation.answers.appending(), showing(console) as progress:
            line = Line(progress, dataset.name, evaluation)
            async with evaluation.watched():
                await evaluation.run(evaluation.missing(), grader, line.add)
        document = await evaluation.finish(grader, k)
    console.print(summary_page(document), markup=False, highlight=False, soft_wrap=True)
    console.print(f"wrote {out / SUMMARY} and {SUMMARY_PAGE}", soft_wrap=True)
    return 0
