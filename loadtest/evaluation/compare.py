"""`python -m loadtest compare`: the same evaluation of two served models, side by side."""

import argparse
import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from loadtest.errors import UserError
from loadtest.evaluation import plots
from loadtest.evaluation.ask import Asker, open_evaluation_session
from loadtest.evaluation.datasets import load
from loadtest.evaluation.grade import Grader
from loadtest.evaluation.options import (
    RESUMABLE,
    add_asking,
    majority_of,
    refuse_without_extra,
    sampling_of,
)
from loadtest.evaluation.run import (
    Answers,
    Evaluation,
    Line,
    choose_model,
    open_evaluation,
    showing,
)
from loadtest.evaluation.summary import DIGITS, Key, problem_scores
from loadtest.options import api_key_of, base_url
from loadtest.report import statistics as figures
from loadtest.report.formatting import (
    counts,
    interval,
    markdown_table,
    mib,
    number,
    percent,
    points,
    runs,
    seconds,
)
from loadtest.report.results_file import provenance, taken_on, write
from loadtest.report.run_folder import default_folder

ON_INTERRUPT = RESUMABLE
# So many rounds of requests at once on one side before the other one's turn.
ROUNDS_IN_BLOCK = 4
DESCRIPTION = (
    "Runs the same evaluation against two servers or two models of one server, "
    "block by block in turn (A B, B A, ...), so that what the machine does meanwhile falls on "
    "both; or takes two finished evaluations. Writes compare.md, compare.json and compare.png."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--a", type=target, metavar="URL[#MODEL]", help="the base; its first model if none is "
        "named")  # fmt: skip
    add("--b", type=target, metavar="URL[#MODEL]", help="what is compared with it")
    add("--from", dest="folders", type=Path, nargs=2, metavar=("DIR_A", "DIR_B"),
        help="two finished evaluations of the same problems in place of --a and --b")  # fmt: skip
    add("--label-a", help="its name in table and picture; the model's if not given")
    add("--label-b")
    add("--out", type=Path, help="loadtest/results/eval/compare-DATASET-DATE if not given")
    add_asking(parser, runs=5)


def target(text: str) -> tuple[str, str | None]:
    url, _, model = text.partition("#")
    return base_url(url), model or None


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    refuse_without_extra()
    return asyncio.run(compare(options, console))


async def compare(options: argparse.Namespace, console: Console) -> int:
    if options.folders is None and not (options.a and options.b):
        raise UserError("Name two servers, --a and --b, or two evaluations with --from.")
    if options.folders is not None and (options.a or options.b):
        raise UserError("--from takes finished evaluations; leave --a and --b out.")
    if options.folders is not None:
        both = [Answers.read(folder) for folder in options.folders]
        out = options.out or _out(str(both[0].settings["dataset"]))
    else:
        out = options.out or _out(load(options.dataset, options.limit).name)
        both = await _evaluate(options, out, console)
    labels = _labels(both, (options.label_a, options.label_b))
    sides = [Compared.of(answers, label) for answers, label in zip(both, labels, strict=True)]
    found: dict[str, Any] = {"meta": provenance(), **document(*sides)}
    text = page(found)
    write(out / "compare.json", found)
    (out / "compare.md").write_text(text, encoding="utf-8")
    plots.comparison([found["a"], found["b"]], found["title"], out / "compare.png")
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"wrote {out / 'compare.md'}, compare.json and compare.png", soft_wrap=True)
    return 0


def _out(dataset: str) -> Path:
    return default_folder("eval", "compare", dataset, to_the_day=True)


async def _evaluate(options: argparse.Namespace, out: Path, console: Console) -> list[Answers]:
    dataset, sampling = load(options.dataset, options.limit), sampling_of(options)
    k = majority_of(options)
    async with AsyncExitStack() as stack:
        grader = await stack.enter_async_context(Grader())
        http = await stack.enter_async_context(open_evaluation_session(api_key_of(options)))
        sides: list[Evaluation] = []
        for name, (url, named) in (("a", options.a), ("b", options.b)):
            model = await choose_model(http, url, named)
            asker = Asker(http, url, model, sampling, options.retries)
            side = open_evaluation(options, asker, dataset, out / name)
            stack.enter_context(side.answers.appending())
            await stack.enter_async_context(side.watched())
            sides.append(side)
        await _in_turn(sides, grader, console)
        for side in sides:
            await side.finish(grader, k)
    return [side.answers for side in sides]


async def _in_turn(sides: Sequence[Evaluation], grader: Grader, console: Console) -> None:
    """A B, B A, ...: each block of problems by one side and then by the other."""
    keys = [(problem, run) for run in range(sides[0].runs) for problem in sides[0].problems]
    size = ROUNDS_IN_BLOCK * int(sides[0].answers.settings["concurrency"])
    with showing(console) as progress:
        lines = [
            Line(progress, f"{name} {side.asker.model}", side)
            for name, side in zip("AB", sides, strict=True)
        ]
        for number, block in enumerate(blocks(keys, size)):
            for place in (0, 1) if number % 2 == 0 else (1, 0):
                missing = set(sides[place].missing())
                block_keys = [key for key in block if key in missing]
                await sides[place].run(block_keys, grader, lines[place].add)


def blocks(keys: Sequence[Key], size: int) -> list[Sequence[Key]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _labels(both: Sequence[Answers], given: Sequence[str | None]) -> list[str]:
    """The models' names, with their servers where two have the same."""
    settings = [answers.settings for answers in both]
    alike = settings[0]["model"] == settings[1]["model"]
    labels = [
        label or (f"{of['model']} at {of['base_url']}" if alike else of["model"])
        for label, of in zip(given, settings, strict=True)
    ]
    if labels[0] == labels[1]:
        return [f"{label} ({side})" for label, side in zip(labels, "AB", strict=True)]
    return labels


@dataclass(frozen=True, slots=True)
class Compared:
    """`scores`: fraction of correct runs by problem."""

    label: str
    summary: dict[str, Any]
    scores: dict[str, float]

    @classmethod
    def of(cls, answers: Answers, label: str) -> Self:
        summary = answers.summary
        if summary is None or not summary["complete"]:
            raise UserError(f"{answers.path} is not finished: let its command go on.")
        problems = sorted({problem for problem, _ in answers.by_key})
        scores = problem_scores(answers.by_key, problems, summary["runs"])
        return cls(label, summary, dict(zip(problems, scores, strict=True)))


def document(a: Compared, b: Compared) -> dict[str, Any]:
    settings = [side.summary["settings"] for side in (a, b)]
    if settings[0]["problems_sha256"] != settings[1]["problems_sha256"]:
        raise UserError("The two evaluations asked different problems.")
    problems = sorted(a.scores)
    difference = figures.paired_difference(
        [a.scores[problem] for problem in problems], [b.scores[problem] for problem in problems]
    )
    keys = ("settings", "accuracy", "total", "server")
    return {
        "title": f"{settings[0]['dataset']}: {len(problems)} problems, "
        + " and ".join(dict.fromkeys(runs(side.summary["runs"]) for side in (a, b))),
        "problems": len(problems),
        **{
            name: {"label": side.label, **{key: side.summary[key] for key in keys}}
            for name, side in (("a", a), ("b", b))
        },
        "accuracy_b_minus_a": difference.rounded(DIGITS),
        "interval": f"95 %, paired percentile bootstrap over problems (numpy, "
        f"{figures.RESAMPLES_OF_MEANS} resamples, seed {figures.SEED})",
    }


ROWS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("load time", lambda side: seconds(side["server"]["load_s"])),
    ("largest host memory seen", lambda side: mib(side["server"]["memory_peak_bytes"])),
    ("TTFT p50", lambda side: seconds(side["total"]["ttft_p50_s"])),
    ("TTFT p95", lambda side: seconds(side["total"]["ttft_p95_s"])),
    ("first answer token p50", lambda side: seconds(side["total"]["ttfo_p50_s"])),
    ("tokens/s a stream p50", lambda side: number(side["total"]["stream_tokens_per_s_p50"], 1)),
    ("tokens/s overall", lambda side: number(side["total"]["tokens_per_s"], 1)),
    ("pass@1", lambda side: percent(side["accuracy"]["pass_at_1"])),
    ("95 % over the problems", lambda side: interval(side["accuracy"]["over_problems"])),
    ("95 % over the runs", lambda side: interval(side["accuracy"]["over_runs"])),
    ("cons@k", lambda side: f"{side['accuracy']['cons_at_k']:.1%} (k {side['accuracy']['k']})"),
    ("tokens of an answer, mean", lambda side: number(side["total"]["completion_tokens"]["mean"])),
    ("of them reasoning, mean", lambda side: number(side["total"]["reasoning_tokens"]["mean"])),
    ("tokens of all answers", lambda side: number(side["total"]["completion_tokens"]["total"])),
    ("reasoning truncated", lambda side: percent(side["total"]["thought_cut_share"])),
    ("empty answers", lambda side: percent(side["total"]["empty_share"])),
    ("no result found", lambda side: percent(side["total"]["no_result_share"])),
    ("failed requests", lambda side: counts(side["total"]["failed_requests"])),
)


def page(found: Mapping[str, Any]) -> str:
    """`compare.md`."""
    a, b, meta = found["a"], found["b"], found["meta"]
    rows = [(name, cell(a), cell(b)) for name, cell in ROWS]
    return (
        "\n\n".join(
            [
                f"# {found['title']}",
                markdown_table(("", a["label"], b["label"]), rows),
                f"Accuracy, {b['label']} less {a['label']}: "
                f"**{points(found['accuracy_b_minus_a'])}** ({found['interval']}).",
                _settings(a["settings"], b["settings"]),
                "![](compare.png)",
                f"The client ran on {taken_on(meta)}.",
            ]
        )
        + "\n"
    )


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """What was asked of both, or where it differed: models asked differently are not comparable."""
    flat = [{**of, **of["sampling"]} for of in (a, b)]
    named = {"base_url", "model", "sampling", "problems", "problems_sha256"}
    other = [
        f"{name} {flat[0][name]} against {flat[1].get(name)}"
        for name in flat[0]
        if name not in named and flat[0][name] != flat[1].get(name)
    ]
    if other:
        return f"**Asked differently: {'; '.join(other)}.**"
    same = {name: value for name, value in a["sampling"].items() if value is not None}
    words = ", ".join(f"{name} {value}" for name, value in same.items())
    return f"Both were asked {a['concurrency']} at a time with {words}."
