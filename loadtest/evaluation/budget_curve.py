"""`python -m loadtest budget-curve`: what a tier's answers are worth at each thinking budget."""

import argparse
import asyncio
import dataclasses
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.errors import UserError
from loadtest.evaluation import plots
from loadtest.evaluation.ask import Answer, Asker, Sampling, open_evaluation_session
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
from loadtest.evaluation.run import Line, choose_model, open_evaluation, showing
from loadtest.options import api_key_of, base_url, natural
from loadtest.report.formatting import markdown_table, number, percent, runs
from loadtest.report.pages import between_markers, write_section
from loadtest.report.results_file import META, REPOSITORY, RESULTS, provenance, taken_on, write
from loadtest.report.run_folder import default_folder

ON_INTERRUPT = RESUMABLE
BUDGETS = (0, 8, 16, 32, 64, 96, 128, 192)
MARKERS = "budget-curve"
# Of a row: the same problems at a server that only cuts.
PLAIN_CUT = "plain_cut"
DESCRIPTION = (
    "The same evaluation at each thinking budget (request field "
    "thinking_token_budget, in tokens). Writes loadtest/results/budget_curve.json, "
    "docs/budget-curve.png and the table of docs/evaluation.md. Exit status 1 if an answer was "
    "empty: a tier whose reasoning is truncated must answer all the same."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_server(parser)
    add(
        "--plain-cut-url",
        type=base_url,
        metavar="URL",
        help="of a server that has the same model and only cuts, as vLLM's own does: each problem "
        "is asked there too, without a budget, and with max_tokens as many tokens as the longest "
        "answer at the budget had; not asked if not given",
    )
    add("--budgets", type=natural, nargs="+", metavar="TOKENS", default=list(BUDGETS))
    add(
        "--answers",
        type=Path,
        help="directory of the answers; loadtest/results/eval/budgets-DATASET-MODEL-DATE "
        "if not given",
    )
    add("--out", type=Path, default=RESULTS / "budget_curve.json")
    add("--page", type=Path, default=REPOSITORY / "docs" / "evaluation.md")
    add("--picture", type=Path, default=REPOSITORY / "docs" / "budget-curve.png")
    add_asking(parser, runs=1)
    parser.set_defaults(dataset="micro")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    refuse_without_extra()
    return asyncio.run(measure(options, console))


async def measure(options: argparse.Namespace, console: Console) -> int:
    _refuse_without_markers(options.page)
    sampling = sampling_of(options)
    rows, settings = await _evaluate(
        options,
        console,
        base_url=options.base_url,
        name="budget",
        samplings={
            budget: dataclasses.replace(sampling, thinking_token_budget=budget)
            for budget in sorted(set(options.budgets))
        },
    )
    if options.plain_cut_url:
        for budget, row in (await _plain_cut(options, console, rows)).items():
            rows[budget][PLAIN_CUT] = row
    results: dict[str, Any] = {str(budget): row for budget, row in rows.items()}
    settings["sampling"].pop("thinking_token_budget")
    if options.plain_cut_url:
        settings["plain_cut_url"] = options.plain_cut_url
    results[META] = provenance(sys.argv[1:]) | {"settings": settings}
    write(options.out, results)
    title = f"{settings['model']} on {settings['dataset']}: {settings['problems']} problems"
    plots.budget_curve(rows, title, options.picture)
    body = f"{table(results)}\n\n![Accuracy by thinking budget]({options.picture.name})"
    write_section(MARKERS, body, options.page)
    console.print(table(results), markup=False, highlight=False, soft_wrap=True)
    console.print(f"wrote {options.out}, {options.picture} and {options.page}", soft_wrap=True)
    empty = sum(row["empty_answers"] for row in rows.values())
    if empty:
        console.print(f"{empty} answers were empty; none may be.", style="bold red")
    return 1 if empty else 0


async def _plain_cut(
    options: argparse.Namespace, console: Console, rows: Mapping[int, Mapping[str, Any]]
) -> dict[int, dict[str, Any]]:
    """The row of each budget at the server that only cuts, which may use as many tokens as the
    longest answer at that budget: reasoning, the phrase that closes it, and the answer."""
    sampling = dataclasses.replace(sampling_of(options), thinking_token_budget=None)
    limits = {budget: row["completion_tokens_max"] for budget, row in rows.items()}
    if not all(limits.values()):
        raise UserError("The server counts no tokens, so a plain cut has no limit to be at.")
    cut, _ = await _evaluate(
        options,
        console,
        base_url=options.plain_cut_url,
        name="plain-cut",
        samplings={
            budget: dataclasses.replace(sampling, max_tokens=limit)
            for budget, limit in limits.items()
        },
    )
    return {budget: {"max_tokens": limits[budget], **row} for budget, row in cut.items()}


async def _evaluate(
    options: argparse.Namespace,
    console: Console,
    *,
    base_url: str,
    name: str,
    samplings: Mapping[int, Sampling],
) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """The row of each budget, and the settings of the last one. `name` is of the folders."""
    dataset, k = load(options.dataset, options.limit), majority_of(options)
    rows: dict[int, dict[str, Any]] = {}
    settings: dict[str, Any] = {}
    async with open_evaluation_session(api_key_of(options)) as http, Grader() as grader:
        model = await choose_model(http, base_url, options.model)
        out = options.answers or default_folder(
            "eval", "budgets", dataset.name, model, to_the_day=True
        )
        with showing(console) as progress:
            for budget, sampling in samplings.items():
                asker = Asker(http, base_url, model, sampling, options.retries)
                folder = out / f"{name}-{budget:05d}"
                evaluation = open_evaluation(options, asker, dataset, folder)
                line = Line(progress, f"{name} {budget}", evaluation)
                with evaluation.answers.appending():
                    async with evaluation.watched():
                        await evaluation.run(evaluation.missing(), grader, line.add)
                document = await evaluation.finish(grader, k)
                rows[budget] = _row(document, evaluation.answers.by_key.values())
                settings = dict(evaluation.answers.settings)
    return rows, settings


def _row(document: Mapping[str, Any], answers: Iterable[Answer]) -> dict[str, Any]:
    total = document["total"]
    tokens = [answer.completion_tokens for answer in answers]
    return {
        "accuracy": document["accuracy"]["over_problems"],
        "thought_cut_share": total["thought_cut_share"],
        "reasoning_tokens_mean": total["reasoning_tokens"]["mean"],
        "completion_tokens_mean": total["completion_tokens"]["mean"],
        "completion_tokens_max": max((count for count in tokens if count), default=None),
        "empty_answers": total["empty_answers"],
        "no_result_share": total["no_result_share"],
        "answers": total["answers"],
        "failed_requests": total["failed_requests"],
    }


def table(results: Mapping[str, Any]) -> str:
    """The rows of the results file, and a caption with what they were taken with."""
    header = (
        *(
            "thinking budget",
            "correct",
            "95 % interval",
            "reasoning truncated",
            "reasoning tokens, mean",
        ),
        *("answer tokens, reasoning included, mean", "no result found", "empty answers"),
    )
    of_budgets = {budget: row for budget, row in results.items() if budget != META}
    rows = [_cells(budget, row) for budget, row in of_budgets.items()]
    has_plain_cut = all(PLAIN_CUT in row for row in of_budgets.values())
    if has_plain_cut:
        header += ("plain cut at, tokens", "correct there", "empty there")
        rows = [
            (*cells, *_plain_cells(row[PLAIN_CUT]))
            for cells, row in zip(rows, of_budgets.values(), strict=True)
        ]
    meta, settings = results[META], results[META]["settings"]
    failed = sum(
        sum(asked["failed_requests"].values())
        for row in of_budgets.values()
        for asked in (row, row.get(PLAIN_CUT))
        if asked
    )
    caption = (
        f"{settings['model']} on {settings['dataset']}: {settings['problems']} problems, "
        f"{runs(settings['runs'])}, temperature "
        f"{settings['sampling']['temperature']}; intervals are bootstraps over the problems; "
        f"{failed} failed requests. {taken_on(meta)}; `{meta['command']}` measures it again."
    )
    if has_plain_cut:
        caption += (
            " The plain cut is the same model at a server that only cuts, without a budget, at as "
            "many tokens as the longest answer at the budget had."
        )
    return f"{markdown_table(header, rows)}\n\n{caption}"


def _cells(budget: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    estimate = row["accuracy"]
    return (
        budget,
        percent(estimate["value"]),
        f"{estimate['low']:.1%} to {estimate['high']:.1%}",
        percent(row["thought_cut_share"]),
        number(row["reasoning_tokens_mean"], 1),
        number(row["completion_tokens_mean"], 1),
        percent(row["no_result_share"]),
        str(row["empty_answers"]),
    )


def _plain_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(row["max_tokens"]),
        percent(row["accuracy"]["value"]),
        str(row["empty_answers"]),
    )


def _refuse_without_markers(page: Path) -> None:
    """Looked at before an hour of asking, not after it."""
    try:
        between_markers(page.read_text(encoding="utf-8"), MARKERS, "")
    except (OSError, UserError) as error:
        raise UserError(f"{page} cannot take the table: {error}.") from None
