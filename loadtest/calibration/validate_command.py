"""`python -m loadtest validate`: does the simulation foretell what a server does?"""

import argparse
import datetime
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from loadtest.calibration.bars import BARS
from loadtest.calibration.command import add_server
from loadtest.calibration.validation_docs import keep_former, read_runs, write_docs
from loadtest.evaluation import options as common
from loadtest.evaluation.words import seconds
from loadtest.load.faults import LoadFault
from loadtest.load.record import Record
from loadtest.results_file import META, REPOSITORY, RESULTS, commit, machine, versions, write
from loadtest.simulation.profile import GpuProfile as CardProfile
from loadtest.simulation.profile import GpuProfileError as ProfileError
from loadtest.simulation.profile import read_profile
from serve_app.core.tiers import Tier

if TYPE_CHECKING:
    from loadtest.calibration.recalibration import Recalibration

VALIDATION = RESULTS.parent / "validation.json"
DOCS = REPOSITORY / "docs" / "calibration.md"
MISSED, INTERRUPTED = 1, 130
DESCRIPTION = """\
Sends three loads to a server, about 30, 60 and 85 % of what the profile says is the most, and
replays the very same requests in the simulation with one replica of that profile. Ends with 1
where the simulation is off by more than 10 % in throughput or 20 % in the median TTFT. With
--recalibrate the profile is measured again between the loads, and only their rates are of the file:
on a machine that changes its speed, both sides are then of the same minutes."""
EXAMPLES = """example:
    python -m loadtest calibrate --tier chat --out profile.json
    python -m loadtest validate --tier chat --profile profile.json --recalibrate 2

It needs a server of one replica that nothing else asks. docs/calibration.md has the last result."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "validate",
        help="three loads for real and in the simulation: is a profile right?",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_server(parser)
    add = parser.add_argument
    add("--profile", type=Path, required=True, metavar="FILE", help="of `loadtest calibrate`")
    add("--duration-s", type=common.positive, default=90, metavar="SECONDS",
        help="how long requests of each load come (90)")  # fmt: skip
    add("--recalibrate", type=_rounds, default=0, metavar="ROUNDS",
        help="of calibration before each load and after the last: their profile is compared, "
        "not the file's (0: the file's is)")  # fmt: skip
    add("--seed", type=int, default=0, help="same seed, same arrivals and lengths (0)")
    add("--out", type=Path, default=VALIDATION, metavar="FILE",
        help="loadtest/results/validation.json, from which and from those before it (kept in "
        "validation/) the tables in docs/calibration.md are written; another file leaves the "
        "docs as they are")  # fmt: skip


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """The exit code; a user's fault is one message."""
    try:
        return _run(options, argv, console)
    except (LoadFault, ProfileError) as fault:
        console.print(str(fault), style="bold red", highlight=False, markup=False, soft_wrap=True)
        return 2


def _run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    from loadtest.calibration import validate
    from loadtest.calibration.waves import ANSWERS, PROMPTS
    from loadtest.load.command import without_key

    given = read_profile(options.profile)
    api_key = options.api_key or os.environ.get("OPENAI_API_KEY")
    tier = _tier(options.tier)
    limits = validate.limits_of(options.base_url, tier, api_key)
    template = validate.template_tokens(options.base_url, tier, api_key)
    most_rps = validate.most_rps(
        given,
        limits,
        prompt=validate.mean_tokens(PROMPTS) + template,
        answer=validate.mean_tokens(ANSWERS),
    )
    command = shlex.join(["python", "-m", "loadtest", *without_key(argv)])
    meta = _meta(options, command) | {
        "slots": limits.slots,
        "template_tokens": round(template, 1),
        "most_rps": round(most_rps, 4),
    }
    again = _recalibration(options, given, api_key, console)
    rates = [share * most_rps for share in validate.SHARES]
    played = _play(options, argv, rates, again, api_key, console)
    if played is None:
        console.print("Interrupted: nothing is written.", style="bold yellow")
        return INTERRUPTED
    profile = given if again is None else again.profile(command)
    rows: list[dict[str, Any]] = []
    for share, rate, records in zip(validate.SHARES, rates, played, strict=True):
        rows.append(validate.compare(share, rate, records, profile, limits, tier))
        console.print(f"{share:.0%}: {words(rows[-1])}", highlight=False, soft_wrap=True)
    meta["profile"] = profile.model_dump(mode="json")
    results = {META: meta, "loads": rows}
    if options.out == VALIDATION:
        keep_former(VALIDATION)
    write(options.out, results)
    if options.out == VALIDATION:
        write_docs(read_runs(VALIDATION), DOCS)
    return 0 if all(all(row["kept"].values()) for row in rows) else MISSED


def _meta(options: argparse.Namespace, command: str) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "command": command,
        "recalibrated_rounds": options.recalibrate,
        "duration_s": options.duration_s,
        "bars": dict(BARS),
    }


def _recalibration(
    options: argparse.Namespace, given: CardProfile, api_key: str | None, console: Console
) -> "Recalibration | None":
    from loadtest.calibration.recalibration import Recalibration, wanted_between

    if not options.recalibrate:
        return None
    wanted = wanted_between(
        given,
        base_url=options.base_url,
        tier=options.tier,
        rounds=options.recalibrate,
        api_key=api_key,
    )
    return Recalibration(wanted, console)


def _play(
    options: argparse.Namespace,
    argv: list[str],
    rates: Sequence[float],
    again: "Recalibration | None",
    api_key: str | None,
    console: Console,
) -> list[Sequence[Record]] | None:
    """The records of each load; None where Ctrl-C came. Raises LoadFault after a load of which a
    request failed: the loads after it would be for nothing."""
    from loadtest.calibration import validate
    from loadtest.load import run as run_of
    from loadtest.load import run_dir

    played: list[Sequence[Record]] = []
    for place, rate in enumerate(rates):
        if again is not None and not again.measure_piece():
            return None
        share = validate.SHARES[place]
        console.print(f"{share:.0%}, {rate:.2f} requests/s", highlight=False)
        load = validate.scenario(
            options.base_url, options.tier, rate, options.duration_s, options.seed + place
        )
        folder = run_dir.default_folder(load.name)
        summary = run_of.execute(load, folder, console, argv=argv, api_key=api_key)
        if summary["interrupted"]:
            return None
        records = run_dir.read(folder).records
        figures = validate.measured(records)
        rate_words = f"{figures['output_tokens_per_s']:.1f} tokens/s"
        console.print(f"{rate_words}, TTFT p50 {seconds(figures['ttft_p50_s'])}", highlight=False)
        played.append(records)
    return None if again is not None and not again.measure_piece() else played


def _tier(name: str) -> Tier:
    if name not in set(Tier):
        raise LoadFault(f"--tier {name}: the simulation knows {', '.join(Tier)}.")
    return Tier(name)


def _rounds(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number of rounds")
    return int(text)


def words(row: Mapping[str, Any]) -> str:
    real, foretold, off = row["measured"], row["simulated"], row["off_by"]
    missed = [name for name, is_kept in row["kept"].items() if not is_kept]
    return (
        f"{row['requests']} requests: {real['output_tokens_per_s']:.1f} tokens/s, simulated "
        f"{foretold['output_tokens_per_s']:.1f} ({off['output_tokens_per_s']:+.1%}); TTFT p50 "
        f"{seconds(real['ttft_p50_s'])}, simulated {seconds(foretold['ttft_p50_s'])} "
        f"({off['ttft_p50_s']:+.1%}){'; missed: ' + ', '.join(missed) if missed else ''}"
    )
