"""`python -m loadtest compare`: the same evaluation of two served models, side by side."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.evaluation import options as common
from loadtest.evaluation import plots
from loadtest.evaluation.ask import make_client
from loadtest.evaluation.command import ending_well
from loadtest.evaluation.compared import Compared, document, page
from loadtest.evaluation.datasets import load
from loadtest.evaluation.faults import EvaluationFault
from loadtest.evaluation.grade import Grader
from loadtest.evaluation.progress import showing
from loadtest.evaluation.run_dir import Key, RunDir
from loadtest.evaluation.server import choose_model
from loadtest.evaluation.side import Side, meta, open_side
from loadtest.results_file import write

# So many rounds of requests at once on one side before the other one's turn.
ROUNDS_IN_BLOCK = 4


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "compare",
        help="two served models on the same problems, in turn",
        description="Runs the same evaluation against two servers or two models of one server, "
        "block by block in turn (A B, B A, ...), so that what the machine does meanwhile falls on "
        "both; or takes two finished evaluations. Writes compare.md, compare.json and compare.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--a", type=target, metavar="URL[#MODEL]", help="the base; its first model if none is named"
    )
    add("--b", type=target, metavar="URL[#MODEL]", help="what is compared with it")
    add(
        "--from",
        dest="folders",
        type=Path,
        nargs=2,
        metavar=("DIR_A", "DIR_B"),
        help="two finished evaluations of the same problems in place of --a and --b",
    )
    add("--label-a", help="its name in table and picture; the model's if not given")
    add("--label-b")
    add("--out", type=Path, help="loadtest/results/eval/compare-DATASET-DATE if not given")
    common.add_asking(parser, runs=5)


def target(text: str) -> tuple[str, str | None]:
    url, _, model = text.partition("#")
    return common.base_url(url), model or None


def run(options: argparse.Namespace, console: Console) -> int:
    return ending_well(lambda: compare(options, console), console)


async def compare(options: argparse.Namespace, console: Console) -> int:
    if options.folders is None and not (options.a and options.b):
        raise EvaluationFault("Name two servers, --a and --b, or two evaluations with --from.")
    if options.folders is not None and (options.a or options.b):
        raise EvaluationFault("--from takes finished evaluations; leave --a and --b out.")
    if options.folders is not None:
        folders = [RunDir.read(folder) for folder in options.folders]
        name = str(folders[0].settings["dataset"])
        out = options.out or common.default_folder("compare", name)
    else:
        dataset = load(options.dataset, options.limit)
        out = options.out or common.default_folder("compare", dataset.name)
        folders = await _evaluate(options, out, console)
    labels = _labels(folders, (options.label_a, options.label_b))
    sides = [Compared.of(folder, label) for folder, label in zip(folders, labels, strict=True)]
    told = {"meta": meta(), **document(*sides)}
    text = page(told)
    write(out / "compare.json", told)
    (out / "compare.md").write_text(text, encoding="utf-8")
    plots.comparison([told["a"], told["b"]], told["title"], out / "compare.png")
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"wrote {out / 'compare.md'}, compare.json and compare.png", soft_wrap=True)
    return 0


async def _evaluate(options: argparse.Namespace, out: Path, console: Console) -> list[RunDir]:
    dataset, sampling = load(options.dataset, options.limit), common.sampling_of(options)
    k = common.majority_of(options)
    async with AsyncExitStack() as stack:
        grader = await stack.enter_async_context(Grader())
        sides: list[Side] = []
        for name, (url, wanted) in (("a", options.a), ("b", options.b)):
            client = make_client(url, common.api_key(options))
            await stack.enter_async_context(client)
            model = await choose_model(client, wanted)
            side = open_side(
                options, sampling, dataset, client=client, model=model, out=out / name, base_url=url
            )
            stack.enter_context(side.folder.appending())
            await stack.enter_async_context(side.watched())
            sides.append(side)
        await _in_turn(sides, grader, console)
        for side in sides:
            await side.finish(grader, k)
    return [side.folder for side in sides]


async def _in_turn(sides: Sequence[Side], grader: Grader, console: Console) -> None:
    """A B, B A, ...: each block of problems by one side and then by the other."""
    keys = [(problem, run) for run in range(sides[0].runs) for problem in sides[0].problems]
    size = ROUNDS_IN_BLOCK * int(sides[0].folder.settings["concurrency"])
    with showing(console) as progress:
        runners = [
            side.runner(grader, side.line(progress, f"{name} {side.asker.model}").add)
            for name, side in zip("AB", sides, strict=True)
        ]
        for number, block in enumerate(blocks(keys, size)):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            for place in order:
                missing = set(sides[place].missing())
                await runners[place].run([key for key in block if key in missing])


def blocks(keys: Sequence[Key], size: int) -> list[Sequence[Key]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _labels(folders: Sequence[RunDir], wanted: Sequence[str | None]) -> list[str]:
    """The models' names, with their servers where two have the same."""
    settings: list[Mapping[str, Any]] = [folder.settings for folder in folders]
    alike = settings[0]["model"] == settings[1]["model"]
    labels = [
        label or (f"{of['model']} at {of['base_url']}" if alike else of["model"])
        for label, of in zip(wanted, settings, strict=True)
    ]
    if labels[0] == labels[1]:
        return [f"{label} ({side})" for label, side in zip(labels, "AB", strict=True)]
    return labels
