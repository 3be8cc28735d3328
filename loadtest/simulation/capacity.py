"""`python -m loadtest capacity`: the load that GPUs sustain within the SLO, alone and together."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.status import Status
from rich.table import Table

from loadtest.errors import INTERRUPTED
from loadtest.report.formatting import number, seconds
from loadtest.simulation import formatting
from loadtest.simulation import option_types as types
from loadtest.simulation import options as common
from serve_app.core.tiers import Tier

if TYPE_CHECKING:
    from loadtest.simulation.answers import CapacityAnswer, SustainedLoadFigures
    from loadtest.simulation.static_set import Bench

# A range wider than this part of the figure is given with two digits.
COARSE = 0.1
DEFAULT_MIX = "chat=0.8,reasoning=0.2"
DESCRIPTION = """\
Simulates the GPUs with all of them serving and nothing scaled, at one load after the other, until
the highest is found at which each tier's requests meet the SLO often enough. First one GPU of each
type with one tier alone, then all GPUs of --gpus with the mix. The server's own gate, relay and
lending run in the simulation; the GPUs are profiles, which say what of them was measured and how
uncertain each figure is. So an answer is a range: `6.0 (4.3 to 7.9)` requests/s, the ends being
simulated with every figure at the worse or the better end of its uncertainty."""
EPILOG = """examples:
  what one T4 and one RTX 4090 sustain, in each tier and together:
    python -m loadtest capacity --gpus T4=1,RTX4090=1
  of other traffic, with another SLO:
    python -m loadtest capacity --gpus RTX4090=4 --mix chat=1 --output-tokens 50-300 --slo ttft=1s
  of recorded traffic:
    python -m loadtest capacity --gpus T4=2 --trace loadtest/traces/azure2023_conv_1h.csv.gz
  of a GPU that was measured (loadtest calibrate), whose figures have their own uncertainty:
    python -m loadtest capacity --gpus my-gpu=2 --profile my-gpu.json

docs/simulation.md says what the numbers mean."""
HELP_FORMAT = common.HelpFormatter


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpus", type=types.gpu_counts, default="T4=1,RTX4090=1", help="GPUs of the set"
    )
    common.add_answer(parser)
    common.add_cluster(parser)
    common.add_trace(parser, required=False)
    lengths = common.add_lengths(parser)
    lengths.add_argument(
        "--mix", type=types.mix, default=DEFAULT_MIX, help="each tier's share of requests"
    )
    add_nominal(parser)


def add_nominal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nominal",
        action="store_true",
        help="the profiles' figures as they stand, without the range that their uncertainty makes, "
        "which takes less time",
    )


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    from loadtest.simulation.answers import write

    answer = _answer(options, argv, console)
    print_answer(answer, console)
    if answer.interrupted:
        console.print("Interrupted: these are the rows found until then.", style="bold yellow")
    if options.json is not None:
        write(options.json, answer)
    return INTERRUPTED if answer.interrupted else 0


def _answer(options: argparse.Namespace, argv: list[str], console: Console) -> "CapacityAnswer":
    from loadtest.simulation.answers import CapacityAnswer, asked
    from loadtest.simulation.inputs import (
        bench_of,
        checked_gpus,
        checked_outputs,
        profiles_of,
        traffic_of,
    )

    checked_outputs(json=options.json)
    profiles = profiles_of(options)
    checked_gpus(options.gpus, profiles)
    traffic = traffic_of(options, options.mix, console)
    bench = bench_of(options, options.gpus, profiles, traffic)
    rows: list[SustainedLoadFigures] = []
    whole, interrupted = None, False
    with console.status("") as status:
        search = _CapacitySearch(bench, options.seeds, status, ranges=not options.nominal)
        try:
            for gpu_type in options.gpus:
                for tier in bench.traffic.shares:
                    rows.append(search.one(gpu_type, tier))
            only_row = len(rows) == 1 and rows[0].gpus == options.gpus
            whole = rows[0] if only_row else search.all(options.gpus)
        except KeyboardInterrupt:
            interrupted = True
    return CapacityAnswer(
        cards=rows,
        whole=whole,
        interrupted=interrupted,
        goodput=options.goodput,
        repetitions=options.seeds,
        traffic=bench.traffic.description(),
        asked=asked(argv, bench.setup, options.slo),
    )


class _CapacitySearch:
    """Counts its simulations, and says on the status line what it looks for."""

    def __init__(self, bench: "Bench", repetitions: int, status: Status, *, ranges: bool) -> None:
        from dataclasses import replace

        self._bench = replace(bench, ran=self._ran)
        self._repetitions, self._status, self._ranges = repetitions, status, ranges
        self._simulations, self._what = 0, ""

    def one(self, gpu_type: str, tier: Tier) -> "SustainedLoadFigures":
        from dataclasses import replace

        alone = replace(self._bench, traffic=self._bench.traffic.only(tier))
        sustained = self._sustained(alone, {gpu_type: 1}, f"one {gpu_type}, {tier} alone")
        assert sustained is not None, "one tier on one GPU always has a GPU"
        return sustained

    def all(self, gpus: Mapping[str, int]) -> "SustainedLoadFigures | None":
        return self._sustained(self._bench, gpus, "the whole set")

    def _sustained(
        self, bench: "Bench", gpus: Mapping[str, int], what: str
    ) -> "SustainedLoadFigures | None":
        from loadtest.simulation.answers import SustainedLoadFigures, tier_figures
        from loadtest.simulation.profile_range import UncertaintySide
        from loadtest.simulation.sustained_load import load_at, maximum_sustained_load

        self._simulations, self._what = 0, what
        sustained = maximum_sustained_load(bench, gpus, repetitions=self._repetitions)
        if sustained is None:
            return None
        at_it = {} if sustained.outcome is None else tier_figures(sustained.outcome)
        ends = (
            {side: load_at(bench, sustained, side) for side in UncertaintySide}
            if self._ranges
            else {}
        )
        return SustainedLoadFigures(
            gpus=dict(gpus),
            tiers=dict(sustained.split),
            load_per_s=sustained.load_per_s,
            highest_per_s=max(sustained.loads_per_s),
            pessimistic_per_s=ends.get(UncertaintySide.PESSIMISTIC),
            optimistic_per_s=ends.get(UncertaintySide.OPTIMISTIC),
            by_tier={t: sustained.load_per_s * part for t, part in bench.traffic.shares.items()},
            at_it=at_it,
            beyond=sustained.beyond,
            simulations=self._simulations,
        )

    def _ran(self) -> None:
        self._simulations += 1
        self._status.update(f"{self._what}: {self._simulations} simulations")


def print_answer(answer: "CapacityAnswer", console: Console) -> None:
    table = formatting.plain_table(
        f"Load sustained with {answer.goodput:.3g} of each tier's requests within "
        f"{formatting.slo(answer.asked.slo)}"
    )
    table.add_column("GPUs", no_wrap=True)
    table.add_column("tier", no_wrap=True)
    for title in ("requests/s", "tok/s", "TTFT p50 / p95", "TPOT p95"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in answer.cards:
        _add(table, row)
    if answer.whole is not None and answer.whole not in answer.cards:
        table.add_section()
        _add(table, answer.whole)
    console.print(table)
    if answer.whole is None and not answer.interrupted:
        console.print("The whole set has no row: each tier of the mix needs a GPU of its own.")
    _print_how(answer, console)


def _add(table: Table, row: "SustainedLoadFigures") -> None:
    """A line of the whole load, and where there are several tiers one for each."""
    several = len(row.tiers) > 1
    for place, (tier, load) in enumerate(row.by_tier.items()):
        found = row.at_it.get(tier)
        part = load / row.load_per_s if row.load_per_s else 0.0
        table.add_row(
            "" if place else formatting.gpus(row.gpus, "\n"),
            f"{tier} on {row.tiers[tier]}" if several else str(tier),
            _rates(row, part),
            "" if found is None else number(found.output_tokens_per_s),
            "" if found is None else formatting.times(found.ttft_s),
            "" if found is None else seconds(found.tpot_s.p95),
        )


def _rates(row: "SustainedLoadFigures", part: float) -> str:
    """Of this part of the load: what is sustained, and the range that the profiles' uncertainty
    makes; without ranges what the repetitions sustained."""
    low, high = row.pessimistic_per_s, row.optimistic_per_s
    if low is None or high is None:
        most = formatting.rate(row.highest_per_s * part)
        return f"{formatting.rate(row.load_per_s * part)} to {most}"
    wide = high - low > COARSE * row.load_per_s
    ends = [
        f"{end * part:.2g}" if wide and end * part < 100 else formatting.rate(end * part)
        for end in (low, high)
    ]
    return f"{formatting.rate(row.load_per_s * part)} ({' to '.join(ends)})"


def _print_how(answer: "CapacityAnswer", console: Console) -> None:
    whole = answer.whole
    rows = answer.cards if whole is None or whole in answer.cards else [*answer.cards, whole]
    for row in rows:
        if row.beyond:
            label = f"{formatting.gpus(row.gpus)}, {' and '.join(row.tiers)}"
            console.print(
                f"{label}: a little more load misses the SLO, {row.beyond}",
                highlight=False,
                soft_wrap=True,
            )
    ranges = any(row.pessimistic_per_s is not None for row in rows)
    second = (
        "; in brackets what the uncertainty of the profiles' figures makes of it, all of them "
        "worse or all better"
        if ranges
        else ", the second in the luckiest"
    )
    console.print(
        f"Simulated: {answer.traffic}. {formatting.repetitions(answer.repetitions)} with arrivals "
        f"that fall anew: the first figure was sustained in each of them{second}.",
        style="dim",
        soft_wrap=True,
        highlight=False,
    )
    formatting.print_profiles(answer.asked.profiles, console)
