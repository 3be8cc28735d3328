"""`python -m loadtest plan`: the cheapest set of GPUs that sustains a load within the SLO."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.status import Status

from loadtest.errors import INTERRUPTED, UserError
from loadtest.simulation import formatting
from loadtest.simulation import option_types as types
from loadtest.simulation import options as common
from loadtest.simulation.capacity import add_nominal

if TYPE_CHECKING:
    from loadtest.simulation.answers import Autoscaled, PlanAnswer, PlannedAt, PlannedSet
    from loadtest.simulation.profile import GpuProfile
    from loadtest.simulation.profile_range import UncertaintySide
    from loadtest.simulation.set_search import Cheapest, Priced, SetSearch
    from loadtest.simulation.static_set import Bench
    from loadtest.simulation.sustained_load import SustainingSplit
    from loadtest.simulation.traffic import ScalableTraffic

HOURS_A_DAY = 24
# In the one simulation of a day.
MOST_REQUESTS = 1_000_000
DESCRIPTION = """\
Searches the counts of GPUs that sustain a load within the SLO at the least price, all of them
serving. A bound by arithmetic rules sets out, the others are simulated, in several repetitions. It
then says whether the cheapest set still sustains it with every figure of the profiles at the worse
end of its uncertainty, and which set does; and which would do at the better end. With --trace or
--day it also says what autoscaling by the server's own scaling policy would save with the same
GPUs."""
EPILOG = """examples:
  a load of two tiers:
    python -m loadtest plan --load chat=20/s,reasoning=2/s
  with other prices, of one GPU type:
    python -m loadtest plan --load chat=20/s --price RTX4090=0.25 --cards RTX4090
  three times a recorded load, and what autoscaling saves in a day of it:
    python -m loadtest plan --trace loadtest/traces/azure2023_conv_1h.csv.gz --load 3 --day

docs/simulation.md says how it searches and where prices are from."""
HELP_FORMAT = common.HelpFormatter


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--load",
        type=types.load,
        required=True,
        metavar="LOAD",
        help="chat=20/s,reasoning=2/s; with --trace how many times its load",
    )
    add(
        "--cards",
        type=lambda text: text.split(","),
        metavar="T4,RTX4090",
        help="GPU types to choose from; all with a price if not given",
    )
    add("--tries", type=types.count, default=40, help="sets that are simulated at most")
    add(
        "--day",
        action="store_true",
        help="the load is the mean of a day, whose curve docs/simulation.md shows: the set is for "
        "its busiest hour, and autoscaling is simulated through the day",
    )
    common.add_answer(parser)
    common.add_cluster(parser)
    common.add_trace(parser, required=False)
    common.add_lengths(parser)
    add_nominal(parser)


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    from loadtest.simulation.answers import write
    from loadtest.simulation.plan_table import print_answer

    answer = _answer(options, argv, console)
    print_answer(answer, console)
    if options.json is not None:
        write(options.json, answer)
    if answer.interrupted:
        return INTERRUPTED
    return 0 if answer.sets else 1


def _answer(options: argparse.Namespace, argv: list[str], console: Console) -> "PlanAnswer":
    from loadtest.simulation.answers import PlanAnswer, asked
    from loadtest.simulation.arrivals import DAY_SWING
    from loadtest.simulation.inputs import bench_of, checked_outputs, profiles_of
    from loadtest.simulation.profile_range import UncertaintySide
    from loadtest.simulation.set_search import Cheapest

    checked_outputs(json=options.json)
    profiles = profiles_of(options)
    prices = _prices(options, profiles)
    traffic, mean_rps = _traffic(options, console)
    load_rps = mean_rps * (1 + DAY_SWING) if options.day else mean_rps
    bench = bench_of(options, dict.fromkeys(prices, 1), profiles, traffic)
    with console.status("") as status:
        search = _PlanSearch(options, bench, prices, load_rps, status)
        found: Cheapest[SustainingSplit] = Cheapest((), 0, proven=False)
        autoscaled, interrupted = None, False
        at: dict[UncertaintySide, PlannedAt] = {}
        try:
            found = search.cheapest()
            for side in UncertaintySide if found.sets and not options.nominal else ():
                at[side] = search.at(side, found.sets[0])
            if found.sets:
                autoscaled = _autoscaled(options, bench, found.sets[0], mean_rps, status)
        except KeyboardInterrupt:
            found, interrupted = search.so_far(), True
    return PlanAnswer(
        sets=[_planned(priced) for priced in found.sets],
        pessimistic=at.get(UncertaintySide.PESSIMISTIC),
        optimistic=at.get(UncertaintySide.OPTIMISTIC),
        interrupted=interrupted,
        proven=found.proven,
        sets_simulated=found.tried,
        load_per_s={tier: load_rps * part for tier, part in traffic.shares.items()},
        day=options.day,
        prices=prices,
        price_sources={name: _price_source(profiles[name]) for name in prices},
        autoscaled=autoscaled,
        goodput=options.goodput,
        repetitions=options.seeds,
        traffic=traffic.description(),
        asked=asked(argv, bench.setup, options.slo),
    )


class _PlanSearch:
    """The cheapest set with the profiles as they stand, and at the ends of their uncertainty."""

    def __init__(
        self,
        options: argparse.Namespace,
        bench: "Bench",
        prices: Mapping[str, float],
        load_rps: float,
        status: Status,
    ) -> None:
        self._options, self._bench, self._prices = options, bench, prices
        self._load_rps, self._status = load_rps, status
        self._nominal = self._of(bench, "")

    def cheapest(self) -> "Cheapest[SustainingSplit]":
        return self._nominal.cheapest()

    def so_far(self) -> "Cheapest[SustainingSplit]":
        """After Ctrl-C; a search that had ended is as it was."""
        return self._nominal.so_far()

    def at(self, side: "UncertaintySide", best: "Priced[SustainingSplit]") -> "PlannedAt":
        """Whether the set that was found sustains the load there, and the cheapest that does.
        Whatever fails with better figures is taken to fail with worse ones."""
        from loadtest.simulation.answers import PlannedAt
        from loadtest.simulation.profile_range import UncertaintySide
        from loadtest.simulation.sustained_load import bench_at

        search = self._of(bench_at(self._bench, side), f"{side} figures, ")
        sustains = side is UncertaintySide.OPTIMISTIC or search.sustains(best.counts)
        if sustains and side is UncertaintySide.PESSIMISTIC:
            return PlannedAt(cheapest_holds=True, cheapest=_planned(best))
        sets = search.cheapest().sets
        cheapest = _planned(sets[0]) if sets else None
        return PlannedAt(cheapest_holds=sustains, cheapest=cheapest)

    def _of(self, bench: "Bench", what: str) -> "SetSearch[SustainingSplit]":
        from loadtest.simulation.set_search import SetSearch
        from loadtest.simulation.sustained_load import SustainingSplit, sustaining_split

        load_rps = self._load_rps

        def run(gpus: Mapping[str, int]) -> SustainingSplit | None:
            text = f"{what}{formatting.gpus(gpus)}: does it sustain {load_rps:.3g} requests/s?"
            self._status.update(text)
            return sustaining_split(bench, gpus, load_rps, repetitions=self._options.seeds)

        return SetSearch(
            self._prices,
            lambda gpus: bench.bound_rps(gpus) / load_rps,
            run,
            at_least=len(bench.traffic.shares),
            most_tries=self._options.tries,
        )


def _prices(options: argparse.Namespace, profiles: Mapping[str, "GpuProfile"]) -> dict[str, float]:
    from loadtest.simulation.inputs import checked_gpus

    checked_gpus(dict.fromkeys(options.cards or (), 1), profiles, option="--cards")
    known = {name: profile.price_usd_per_hour for name, profile in profiles.items()}
    chosen = options.cards or [name for name, price in known.items() if price is not None]
    found: dict[str, float] = {}
    for name in chosen:
        price = known[name]
        if price is None or not price.value:
            raise UserError(f"--cards: {name} has no price; give one: --price {name}=0.40")
        found[name] = price.value
    return found


def _price_source(profile: "GpuProfile") -> str:
    price = profile.price_usd_per_hour
    return "" if price is None else price.source


def _traffic(options: argparse.Namespace, console: Console) -> "tuple[ScalableTraffic, float]":
    """What comes, and how much of it a second."""
    from loadtest.simulation.inputs import traffic_of
    from loadtest.simulation.traffic import ReplayedTraffic

    load = options.load
    if (options.trace is None) != isinstance(load, dict):
        raise UserError(
            "--load: with --trace how many times its load (--load 3), without it a rate for each "
            "tier (--load chat=20/s,reasoning=2/s)"
        )
    if isinstance(load, dict):
        whole = sum(load.values())
        shares = {tier: rate / whole for tier, rate in load.items()}
        return traffic_of(options, shares, console), whole
    traffic = traffic_of(options, {}, console)
    assert isinstance(traffic, ReplayedTraffic)
    return traffic, load * traffic.load_rps


def _planned(priced: "Priced[SustainingSplit]") -> "PlannedSet":
    from loadtest.simulation.answers import PlannedSet, tier_figures

    figures = tier_figures(priced.found.outcome)
    tokens_per_hour = 3600 * sum(tier.output_tokens_per_s for tier in figures.values())
    return PlannedSet(
        gpus=priced.counts,
        tiers=priced.found.split,
        usd_per_hour=priced.price,
        usd_per_day=priced.price * HOURS_A_DAY,
        usd_per_million_output_tokens=1e6 * priced.price / tokens_per_hour,
        figures=figures,
    )


def _autoscaled(
    options: argparse.Namespace,
    bench: "Bench",
    best: "Priced[SustainingSplit]",
    mean_rps: float,
    status: Status,
) -> "Autoscaled | None":
    """The server's scaling policy on the cheapest set, through the trace or a day of it."""
    from loadtest.simulation.answers import Autoscaled
    from loadtest.simulation.contest import run_policy

    if options.trace is None and not options.day:
        return None
    trace = replace(bench.traffic.at(mean_rps, 0), day=options.day)
    gpus = {name: count for name, count in best.counts.items() if count}

    def seen(done: float) -> None:
        status.update(
            f"the server's scaling policy on {formatting.gpus(gpus)}: {done:.0%} of the time"
        )

    setup = replace(bench.setup, gpus=gpus, most_requests=MOST_REQUESTS, seen=seen)
    outcome = run_policy("ours", trace, setup, goodput=None).outcome
    static_hours = sum(gpus.values()) * outcome.duration_s / 3600
    usd_per_day = (outcome.total_cost_usd or 0.0) / outcome.duration_s * 86_400
    return Autoscaled(
        gpu_hours=outcome.gpu_hours,
        gpu_hours_static=static_hours,
        usd_per_day=usd_per_day,
        saved=1 - usd_per_day / (best.price * HOURS_A_DAY),
        goodput={tier: found.goodput_share for tier, found in outcome.tiers.items()},
    )
