"""`tierserve bench answers`: accuracy against tokens and latency of a tier's answer policies."""

import argparse
import asyncio
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yaml
from rich.console import Console

from loadtest.client.server_info import tiers_of
from loadtest.errors import UserError
from loadtest.evaluation import plots
from loadtest.evaluation.ask import Answer, Asker, Sampling, open_evaluation_session
from loadtest.evaluation.compare import ROUNDS_IN_BLOCK, blocks
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
from loadtest.evaluation.policy_choice import (
    MARGIN,
    MOST_TOKENS_RATIO,
    Choice,
    Difference,
    Measured,
    choose,
    difference,
    frontier,
)
from loadtest.evaluation.policy_spec import PolicySpec
from loadtest.evaluation.run import (
    Evaluation,
    Line,
    choose_model,
    open_evaluation,
    showing,
    tier_of,
)
from loadtest.evaluation.summary import DIGITS, problem_scores
from loadtest.options import api_key_of, not_negative
from loadtest.report import statistics as figures
from loadtest.report.formatting import interval, markdown_table, number, percent, runs, seconds
from loadtest.report.results_file import provenance, taken_on, write
from loadtest.report.run_folder import default_folder
from serve_app.core.reasoning.answer_policy import AnswerPolicy

ON_INTERRUPT = RESUMABLE
RESULTS, PAGE, PICTURE, SETTINGS = "answers.json", "answers.md", "frontier.png", "policy.yaml"
POLICIES = ("truncate", "direct", "lean", "early_exit", "pair", "vote")
HELP_FORMAT = argparse.RawDescriptionHelpFormatter
DESCRIPTION = """\
Asks a tier each problem under each answer policy, block by block in turn, and
compares accuracy, tokens (those that no client sees among them) and latency
with the first policy's, by a paired bootstrap over problems. Writes, in --out:
  answers.json, answers.md  the figures
  frontier.png              accuracy against tokens
  policy.yaml               the policy that wins, as settings of the tier
The first policy stays unless another one surely is more often right, or surely
takes fewer tokens, and surely loses less than --margin of accuracy.
"""
EPILOG = """\
A policy is NAME[:NUMBER][@BUDGET]: vote:3 has three samples, early_exit:32 and
pair:32 a trial answer every 32 tokens, lean:20 a bias of 20; truncate:256 and
vote:3@256 reason for at most 256 tokens.

examples:
  # all policies, as the tier has them set
  tierserve bench answers --base-url http://127.0.0.1:8000/api/reasoning/v1 \\
    --dataset math500 --runs 5
  # a quick look at a small model
  tierserve bench answers --base-url http://127.0.0.1:8000/api/chat/v1 \\
    --dataset micro --limit 100 --policies truncate truncate:48 direct vote:3@48

exit status: 0 measured, 1 an answer was empty, 2 bad usage or no such server.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_server(parser)
    add(
        "--policies",
        type=PolicySpec.read,
        nargs="+",
        metavar="POLICY",
        default=[PolicySpec.read(name) for name in POLICIES],
        help=f"the first is the default that others are compared with; else {' '.join(POLICIES)}",
    )
    add(
        "--margin",
        type=not_negative,
        default=100 * MARGIN,
        metavar="POINTS",
        help="accuracy that the winner may lose at most; else 1",
    )
    add(
        "--most-tokens",
        type=not_negative,
        default=MOST_TOKENS_RATIO,
        metavar="RATIO",
        help="of the first policy's tokens, that the winner may take at most; else 1",
    )
    add("--out", type=Path, help="else loadtest/results/eval/answers-DATASET-MODEL-DATE")
    add_asking(parser, runs=1)


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    refuse_without_extra()
    if options.thinking_token_budget is not None:
        options.policies = [
            _with_budget(s, options.thinking_token_budget) for s in options.policies
        ]
    names = [str(policy) for policy in options.policies]
    if len({*names}) < len(names):
        raise UserError("--policies has one of them twice.")
    return asyncio.run(measure(options, console))


def _with_budget(spec: PolicySpec, budget_tokens: int) -> PolicySpec:
    """The budget of all that name none, so that name and settings of a policy have it."""
    if budget_tokens == 0:
        raise UserError("--thinking-token-budget 0: without reasoning, name the policy direct.")
    if spec.budget_tokens is not None or spec.policy is AnswerPolicy.DIRECT:
        return spec
    return dataclasses.replace(spec, budget_tokens=budget_tokens)


async def measure(options: argparse.Namespace, console: Console) -> int:
    """(1) Ask, all policies in turn. (2) Compare each with the first. (3) Choose, and write."""
    dataset, k = load(options.dataset, options.limit), majority_of(options)
    async with AsyncExitStack() as stack:
        grader = await stack.enter_async_context(Grader())
        http = await stack.enter_async_context(open_evaluation_session(api_key_of(options)))
        model = await choose_model(http, options.base_url, options.model)
        out: Path = options.out or default_folder(
            "eval", "answers", dataset.name, model, to_the_day=True
        )
        tier = await _tier_settings(http, options.base_url, model)
        sides: dict[str, Evaluation] = {}
        for spec in options.policies:
            sampling = sampling_under(sampling_of(options), spec)
            asker = Asker(http, options.base_url, model, sampling, options.retries)
            side = open_evaluation(options, asker, dataset, out / spec.folder, tier=tier)
            stack.enter_context(side.answers.appending())
            sides[str(spec)] = side
        await _in_turn(sides, grader, console)
        documents = {name: await side.finish(grader, k) for name, side in sides.items()}
    found = results(options, sides, documents)
    write(out / RESULTS, found)
    plots.frontier(found["policies"], found["frontier"], found["title"], out / PICTURE)
    text = page(found)
    (out / PAGE).write_text(text, encoding="utf-8")
    (out / SETTINGS).write_text(settings_file(options.policies, found), encoding="utf-8")
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"wrote {out / RESULTS}, {PAGE}, {PICTURE} and {SETTINGS}", soft_wrap=True)
    return 1 if any(row["empty_answers"] for row in found["policies"].values()) else 0


async def _tier_settings(
    http: aiohttp.ClientSession, base_url: str, model: str
) -> dict[str, Any] | None:
    """What of a tier's settings makes a policy what it is; None of a server without tiers."""
    tiers = await tiers_of(http, base_url) or {}
    tier = tier_of(tiers.values(), urlsplit(base_url).path, model)
    if not tier:
        return None
    settings = tier.get("settings") or {}
    return {name: settings.get(name) for name in ("answers", "thinking", "max_new_tokens")}


def sampling_under(sampling: Sampling, spec: PolicySpec) -> Sampling:
    """What is asked under a policy: its own budget, or that of the options where it reasons."""
    budget = sampling.thinking_token_budget if spec.budget_tokens is None else spec.budget_tokens
    return dataclasses.replace(
        sampling,
        answer_policy=spec.field,
        thinking_token_budget=None if spec.policy == "direct" else budget,
    )


async def _in_turn(sides: Mapping[str, Evaluation], grader: Grader, console: Console) -> None:
    """A B C, B C A, ...: what the machine does meanwhile falls on all of them."""
    names = list(sides)
    first = sides[names[0]]
    keys = [(problem, run) for run in range(first.runs) for problem in first.problems]
    size = ROUNDS_IN_BLOCK * int(first.answers.settings["concurrency"])
    with showing(console) as progress:
        lines = {name: Line(progress, name, side) for name, side in sides.items()}
        for turn, block in enumerate(blocks(keys, size)):
            start = turn % len(names)
            for name in (*names[start:], *names[:start]):
                missing = set(sides[name].missing())

                def on_answer(answer: Answer, name: str = name) -> None:
                    _refuse_other_policy(answer, name)
                    lines[name].add(answer)

                block_keys = [key for key in block if key in missing]
                await sides[name].run(block_keys, grader, on_answer)


def _refuse_other_policy(answer: Answer, name: str) -> None:
    """A server that does not know the field answers all the same, as if by every policy."""
    asked = name.partition("@")[0].partition(":")[0]
    if not answer.answered or answer.policy_report.get("policy") == asked:
        return
    raise UserError(
        f"The server has not answered by {asked}: it reports "
        f"{answer.policy_report.get('policy') or 'no answer policy'}. Only tierserve knows the "
        "field `answer_policy`, and a model that does not reason has no such policies."
    )


def results(
    options: argparse.Namespace,
    sides: Mapping[str, Evaluation],
    documents: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The results file. Raises UserError where a server counts no tokens."""
    problems = answered_by_all(sides)
    measured = {name: measured_of(side, problems) for name, side in sides.items()}
    default, *others = measured
    differences = {
        name: difference(measured[default], measured[name], comparisons=2 * len(others))
        for name in others
    }
    choice = choose(
        default,
        measured,
        differences,
        most_tokens_ratio=options.most_tokens,
        margin=options.margin / 100,
    )
    settings = {**documents[default]["settings"]}
    settings["sampling"] = {
        name: value
        for name, value in settings["sampling"].items()
        if name not in ("answer_policy", "thinking_token_budget")
    }
    return {
        "meta": provenance(sys.argv[1:]),
        "title": f"{settings['model']} on {settings['dataset']}: {settings['problems']} problems, "
        f"{runs(settings['runs'])}",
        "settings": settings,
        "policies": {
            name: _row(documents[name], side, differences.get(name)) for name, side in sides.items()
        },
        "compared_problems": len(problems),
        "frontier": frontier(measured),
        "default": default,
        "choice": dataclasses.asdict(choice),
        "interval": f"paired percentile bootstrap over problems (numpy, "
        f"{figures.RESAMPLES_OF_MEANS} resamples, seed {figures.SEED}), 95 % for all "
        f"{2 * len(others)} intervals together (Bonferroni), accuracy with one problem more won "
        "and one lost (Bonett and Price)",
    }


def answered_by_all(sides: Mapping[str, Evaluation]) -> list[str]:
    """The problems of which no request failed: one that did costs no tokens, and is no answer of
    its policy. Raises UserError where none is left."""
    (first, *_) = sides.values()
    kept = [
        problem
        for problem in first.problems
        if all(
            (answer := side.answers.by_key.get((problem, run))) is not None and answer.answered
            for side in sides.values()
            for run in range(side.runs)
        )
    ]
    if not kept:
        raise UserError("Of every problem a request failed; the same command asks them again.")
    return kept


def measured_of(side: Evaluation, problems: Sequence[str]) -> Measured:
    """Of these problems, all of whose requests were answered."""
    answers = side.answers.by_key
    tokens: list[float] = []
    for problem in problems:
        of_problem = [answers[problem, run] for run in range(side.runs)]
        mean = figures.mean(answer.completion_tokens for answer in of_problem)
        if mean is None:
            raise UserError(f"The server reports no usage of {problem}: tokens cannot be counted.")
        tokens.append(mean)
    return Measured(problem_scores(answers, problems, side.runs), tokens)


def _row(document: Mapping[str, Any], side: Evaluation, found: Difference | None) -> dict[str, Any]:
    total, answers = document["total"], [a for a in side.answers.by_key.values() if a.answered]
    reports = [a.policy_report for a in answers]
    agreed = [bool(report["agreed"]) for report in reports if "agreed" in report]
    return {
        "accuracy": document["accuracy"]["over_problems"],
        "completion_tokens_mean": total["completion_tokens"]["mean"],
        "reasoning_tokens_mean": total["reasoning_tokens"]["mean"],
        "e2e_p50_s": figures.quantile([a.e2e_s for a in answers], 50),
        "e2e_p95_s": figures.quantile([a.e2e_s for a in answers], 95),
        "ttft_p50_s": total["ttft_p50_s"],
        "agreed_share": figures.fraction(sum(agreed), len(agreed)),
        "reasoning_cut_share": total["thought_cut_share"],
        "empty_answers": total["empty_answers"],
        "failed_requests": total["failed_requests"],
        "against_default": None
        if found is None
        else {
            "accuracy": found.accuracy.rounded(DIGITS),
            "tokens_ratio": found.tokens.rounded(DIGITS),
        },
    }


def page(found: Mapping[str, Any]) -> str:
    """`answers.md`."""
    header = (
        *("policy", "correct", "95 % interval", "tokens, mean", "of them reasoning"),
        *("E2E p50", "E2E p95", "TTFT p50", "agreed", f"points against {found['default']}"),
        "times its tokens",
    )
    rows = [_cells(name, row, found["frontier"]) for name, row in found["policies"].items()]
    failed = sum(sum(row["failed_requests"].values()) for row in found["policies"].values())
    sampling = ", ".join(
        f"{name} {value}"
        for name, value in found["settings"]["sampling"].items()
        if value is not None
    )
    parts = [
        f"# {found['title']}",
        markdown_table(header, rows),
        f"**{found['choice']['name']}**: {found['choice']['reason']}.",
        f"Bold: on the frontier. Differences: {found['interval']}, over the "
        f"{found['compared_problems']} problems of which no request failed. Tokens are all that "
        "were made, those that no client sees among them.",
        f"![Accuracy against tokens]({PICTURE})",
        f"Asked {found['settings']['concurrency']} at a time with {sampling}; {failed} failed "
        f"requests. {taken_on(found['meta'])}; `{found['meta']['command']}` measures it again.",
    ]
    return "\n\n".join(parts) + "\n"


def _cells(name: str, row: Mapping[str, Any], on_frontier: Sequence[str]) -> tuple[str, ...]:
    against = row["against_default"]
    return (
        f"**{name}**" if name in on_frontier else name,
        percent(row["accuracy"]["value"]),
        interval(row["accuracy"]),
        number(row["completion_tokens_mean"], 1),
        number(row["reasoning_tokens_mean"], 1),
        seconds(row["e2e_p50_s"]),
        seconds(row["e2e_p95_s"]),
        seconds(row["ttft_p50_s"]),
        "--" if row["agreed_share"] is None else percent(row["agreed_share"]),
        "--" if against is None else _range(against["accuracy"], 100, "+.1f"),
        "--" if against is None else _range(against["tokens_ratio"], 1, ".2f"),
    )


def _range(figure: Mapping[str, float], times: float, form: str) -> str:
    value, low, high = (f"{times * figure[key]:{form}}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def settings_file(policies: Sequence[PolicySpec], found: Mapping[str, Any]) -> str:
    """The winner as a part of a tier's `user_config`, with where it comes from."""
    choice = Choice(**found["choice"])
    (spec,) = (spec for spec in policies if str(spec) == choice.name)
    settings = found["settings"]
    comment = (
        f"{found['title']}, at {settings['base_url']}.",
        f"{choice.name}: {choice.reason}.",
        f"{taken_on(found['meta'])}: {found['meta']['command']}",
        "For this model and tier: put it into the tier's `user_config` (docs/reasoning.md).",
    )
    lines = "".join(f"# {line}\n" for line in comment)
    return lines + yaml.safe_dump(spec.settings, sort_keys=False)
