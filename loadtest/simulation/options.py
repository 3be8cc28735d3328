"""The options that `simulate`, `capacity`, `plan` and `bench-scaling` share, and what they mean."""

import argparse
from pathlib import Path

from loadtest.simulation.option_types import (
    DEFAULT_SLO,
    count,
    lengths,
    part,
    positive,
    prices,
    share,
    slo,
)
from serve_app.config.admission import AdmissionConfig
from serve_app.core.tiers import Tier

DEFAULT_GPUS = "T4=2,RTX4090=1"
# By the names that the command line knows.
POLICIES = (
    "ours",
    "ray-default",
    "waiting-threshold",
    "llm-d",
    "aibrix",
    "constant",
    "clairvoyant",
)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Examples as they are written; a default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, {}, [], False):
            return action.help
        return super()._get_help_string(action)


def add_trace(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """The recorded traffic, and what is done to it."""
    add = parser.add_argument
    add(
        "--trace",
        type=Path,
        required=required,
        metavar="FILE",
        help="CSV, or CSV.gz, with arrival_s, input_tokens, output_tokens, and tier where "
        "requests are of several tiers",
    )
    add(
        "--tier",
        type=Tier,
        choices=list(Tier),
        help="whose requests they are where the trace does not say; without it chat, or reasoning "
        "where it has a column reasoning_tokens",
    )


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """What a GPU does, and what SLO it is to keep."""
    add = parser.add_argument
    add(
        "--slo",
        type=slo,
        default=DEFAULT_SLO,
        metavar="ttft=2s,tpot=100ms",
        help="of ttft, tpot, e2e: what a good request keeps, all of them",
    )
    add(
        "--profile",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a profile that `loadtest calibrate` wrote: it takes the place of the derived one of "
        "its name, or adds a GPU for --gpus; may be given several times",
    )
    add(
        "--price",
        type=prices,
        default={},
        metavar="T4=0.35,RTX4090=0.40",
        help="dollars an hour in place of the profiles' prices",
    )
    add(
        "--max-wait-s",
        type=positive,
        default=AdmissionConfig().max_wait_s,
        help="longest wait of a tier: who would wait longer is refused",
    )
    add(
        "--lend-share",
        type=share,
        default=AdmissionConfig().lend_share,
        help="part of its slots that a replica lends to the other tier",
    )


def add_scaling(parser: argparse.ArgumentParser, *, cold_start_s: float | None = None) -> None:
    """How quickly the cluster follows its policy."""
    add = parser.add_argument
    add(
        "--cold-start-s",
        type=positive,
        default=cold_start_s,
        help="from ordering a replica to its first request; each GPU's own, from its profile, if "
        "not given",
    )
    add(
        "--downscale-delay-s",
        type=positive,
        default=60.0,
        help="how long ours must desire fewer replicas before it scales down",
    )
    add(
        "--goodput",
        type=share,
        help="share of all arrivals that must meet the SLO with the other policies' settings; what "
        "ours reaches on this trace, if not given",
    )


def add_lengths(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """Made-up requests: independent arrivals with these lengths."""
    group = parser.add_argument_group("without a trace: independent arrivals")
    add = group.add_argument
    add(
        "--input-tokens",
        type=lengths,
        default="200-800",
        metavar="LENGTH",
        help="256, or 200-800 for all between; by tier: chat=200-800,reasoning=100-400",
    )
    add(
        "--output-tokens",
        type=lengths,
        default="chat=100-600,reasoning=400-2000",
        metavar="LENGTH",
        help="as above",
    )
    add(
        "--requests",
        type=count,
        default=2000,
        help="of each tier at least, in each simulation",
    )
    return group


def add_answer(parser: argparse.ArgumentParser) -> None:
    """How sure the answer is to be."""
    add = parser.add_argument
    add(
        "--goodput",
        type=part,
        default=0.99,
        help="share of each tier's requests that must meet the SLO",
    )
    add(
        "--seeds",
        type=count,
        default=3,
        help="independent repetitions; all of them must sustain the load",
    )
    add("--json", type=Path, metavar="OUT", help="write the result here")
