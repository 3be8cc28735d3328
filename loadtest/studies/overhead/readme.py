"""`python -m loadtest readme`: the overhead tables of the docs, from the results files."""

import argparse
from pathlib import Path

from rich.console import Console

from loadtest.report.pages import between_markers, page_of, write_section
from loadtest.report.results_file import RESULTS, read
from loadtest.studies.overhead.options import RANDOM
from loadtest.studies.overhead.results import table
from loadtest.studies.overhead.summary import SUMMARY, summary

# What `make bench-overhead` writes.
STEMS = ("overhead-promises", "overhead", f"overhead-{RANDOM}")
# The same, where it has been measured.
ROUTES = RESULTS / "overhead-routes.json"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("readme", description=__doc__)
    results = (
        *(RESULTS / f"{stem}.json" for stem in STEMS),
        *([ROUTES] if ROUTES.exists() else ()),
    )
    parser.add_argument("--results", type=Path, nargs="+", default=results)
    parser.add_argument("--readme", type=Path, help="else the page that has the table's markers")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    for results in options.results:
        page = options.readme or page_of(results.stem)
        text = page.read_text(encoding="utf-8")
        body = table(read(results))
        page.write_text(between_markers(text, results.stem, body), encoding="utf-8")
    routes = read(ROUTES) if ROUTES.exists() else None
    write_section(SUMMARY, summary(read(RESULTS / "overhead.json"), routes))
    return 0
