"""`python -m loadtest validate`: does the simulation predict what a server does?"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from loadtest.calibration.command import add_server
from loadtest.calibration.validate import BARS, THROUGHPUT, TTFT
from loadtest.client.record import Record
from loadtest.errors import UserError
from loadtest.options import api_key_of, natural, positive
from loadtest.report.formatting import markdown_table, number, seconds
from loadtest.report.pages import write_section
from loadtest.report.results_file import META, RESULTS, provenance, read, taken_on, write
from loadtest.report.run_folder import default_folder
from loadtest.simulation.profile import GpuProfile, read_profile
from serve_app.core.tiers import Tier

if TYPE_CHECKING:
    from loadtest.calibration.validate import Recalibration

VALIDATION = RESULTS / "validation.json"
MISSED = 1
ON_INTERRUPT = "Interrupted: nothing is written."
DESCRIPTION = """\
Sends three loads to a server, about 30, 60 and 85 % of what the profile says is the most, and
replays the very same requests in the simulation with one replica of that profile. Ends with 1
where the simulation is off by more than 10 % in throughput or 20 % in the median TTFT. With
--recalibrate the profile is measured again between the loads, and only their rates are of the file:
on a machine that changes its speed, both sides are then of the same minutes."""
EPILOG = """example:
    python -m loadtest calibrate --tier chat --out profile.json
    python -m loadtest validate --tier chat --profile profile.json --recalibrate 2

It needs a server of one replica that nothing else asks. docs/calibration.md has the last result."""
HELP_FORMAT = argparse.RawDescriptionHelpFormatter


def add_options(parser: argparse.ArgumentParser) -> None:
    add_server(parser)
    add = parser.add_argument
    add("--profile", type=Path, required=True, metavar="FILE", help="of `loadtest calibrate`")
    add("--duration-s", type=positive, default=90, metavar="SECONDS",
        help="how long requests of each load come (90)")  # fmt: skip
    add("--recalibrate", type=natural, default=0, metavar="ROUNDS",
        help="of calibration before each load and after the last: their profile is compared, "
        "not the file's (0: the file's is)")  # fmt: skip
    add("--seed", type=int, default=0, help="same seed, same arrivals and lengths (0)")
    add("--out", type=Path, default=VALIDATION, metavar="FILE",
        help="loadtest/results/validation.json, from which and from those before it (kept in "
        "validation/) the tables in docs/calibration.md are written; another file leaves the "
        "docs as they are")  # fmt: skip


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    from loadtest.calibration import validate
    from loadtest.calibration.waves import ANSWERS, PROMPTS

    given = read_profile(options.profile)
    api_key = api_key_of(options)
    tier = _tier(options.tier)
    limits = validate.limits_of(options.base_url, tier, api_key)
    template = validate.template_tokens(options.base_url, tier, api_key)
    most_rps = validate.most_rps(
        given,
        limits,
        prompt=validate.mean_tokens(PROMPTS) + template,
        answer=validate.mean_tokens(ANSWERS),
    )
    meta = provenance(argv) | {
        "recalibrated_rounds": options.recalibrate,
        "duration_s": options.duration_s,
        "bars": dict(validate.BARS),
        "slots": limits.slots,
        "template_tokens": round(template, 1),
        "most_rps": round(most_rps, 4),
    }
    again = _recalibration(options, given, api_key, console)
    rates = [share * most_rps for share in validate.SHARES]
    played = _play(options, argv, rates, again, api_key, console)
    if played is None:
        raise KeyboardInterrupt
    profile = given if again is None else again.profile(argv)
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
        runs = read_runs(VALIDATION)
        write_section(LAST, table(runs[-1]))
        write_section(ALL, all_table(runs))
    return 0 if all(all(row["kept"].values()) for row in rows) else MISSED


def _recalibration(
    options: argparse.Namespace, given: GpuProfile, api_key: str | None, console: Console
) -> "Recalibration | None":
    from loadtest.calibration.validate import Recalibration, settings_between

    if not options.recalibrate:
        return None
    settings = settings_between(
        given,
        base_url=options.base_url,
        tier=options.tier,
        rounds=options.recalibrate,
        api_key=api_key,
    )
    return Recalibration(settings, console)


def _play(
    options: argparse.Namespace,
    argv: list[str],
    rates: Sequence[float],
    again: "Recalibration | None",
    api_key: str | None,
    console: Console,
) -> list[Sequence[Record]] | None:
    """The records of each load; None where Ctrl-C came. Raises UserError after a load of which a
    request failed: the loads after it would be for nothing."""
    from loadtest.calibration import validate
    from loadtest.load.run import execute
    from loadtest.load.run import read as read_run

    played: list[Sequence[Record]] = []
    for place, rate in enumerate(rates):
        if again is not None and not again.measure_piece():
            return None
        share = validate.SHARES[place]
        console.print(f"{share:.0%}, {rate:.2f} requests/s", highlight=False)
        load = validate.scenario(
            options.base_url, options.tier, rate, options.duration_s, options.seed + place
        )
        folder = default_folder("load", load.name)
        summary = execute(load, folder, console, argv=argv, api_key=api_key)
        if summary["interrupted"]:
            return None
        records = read_run(folder).records
        figures = validate.measured(records)
        rate_words = f"{figures['output_tokens_per_s']:.1f} tokens/s"
        console.print(f"{rate_words}, TTFT p50 {seconds(figures['ttft_p50_s'])}", highlight=False)
        played.append(records)
    return None if again is not None and not again.measure_piece() else played


def _tier(name: str) -> Tier:
    if name not in set(Tier):
        raise UserError(f"--tier {name}: the simulation knows {', '.join(Tier)}.")
    return Tier(name)


def words(row: Mapping[str, Any]) -> str:
    real, predicted, off = row["measured"], row["simulated"], row["off_by"]
    missed = [name for name, is_kept in row["kept"].items() if not is_kept]
    return (
        f"{row['requests']} requests: {real['output_tokens_per_s']:.1f} tokens/s, simulated "
        f"{predicted['output_tokens_per_s']:.1f} ({off['output_tokens_per_s']:+.1%}); TTFT p50 "
        f"{seconds(real['ttft_p50_s'])}, simulated {seconds(predicted['ttft_p50_s'])} "
        f"({off['ttft_p50_s']:+.1%}){'; missed: ' + ', '.join(missed) if missed else ''}"
    )


LAST, ALL = "validation", "validations"
FIGURES = {
    "output_tokens_per_s": "output tokens/s",
    "ttft_p50_s": "TTFT p50",
    "ttft_p95_s": "TTFT p95",
    "tpot_p50_s": "TPOT p50",
    "e2e_p50_s": "E2E p50",
}
Results = Mapping[str, Any]


def keep_former(last: Path) -> None:
    """Move the results that are about to be replaced to where all of them are kept."""
    if not last.exists():
        return
    date = read(last)[META]["date"]
    folder = last.with_suffix("")
    folder.mkdir(exist_ok=True)
    last.rename(folder / f"{date[:19].replace(':', '')}.json")


def read_runs(last: Path) -> list[Results]:
    """Every comparison that was kept, the last one last."""
    files = [*sorted(last.with_suffix("").glob("*.json")), last]
    return [read(file) for file in files]


def table(results: Results) -> str:
    """A row for each load and figure: measured, simulated, and how far apart they are."""
    meta = results[META]
    rows = [
        (f"{load['share_of_most']:.0%}, {load['rate_rps']:.2f}/s", title, *_cells(load, name))
        for load in results["loads"]
        for name, title in FIGURES.items()
    ]
    header = ("load", "figure", "measured", "simulated", "off by", "bar")
    bars = (
        f"Shares are of {meta['most_rps']:.2f} requests/s, what the profile says is the most. "
        f"{' / '.join(str(load['requests']) for load in results['loads'])} requests; one replica "
        f"with {meta['slots']} slots, {meta['profile']['model']}, {taken_on(meta)}"
        f"{_in_between(meta)}."
    )
    return f"{markdown_table(header, rows)}\n\n{bars}"


def all_table(runs: Sequence[Results]) -> str:
    """A row for each load of each comparison, and how many keep both bars."""
    loads = [(run[META], load) for run in runs for load in run["loads"]]
    rows = [
        (
            f"{meta['date'][:16].replace('T', ' ')}, {meta['commit']}{_in_between(meta)}",
            f"{meta['profile']['model']}, {meta['machine']['cores']} cores of "
            f"{meta['machine']['cpu']}",
            f"{load['share_of_most']:.0%}, {load['rate_rps']:.2f}/s",
            *(f"{load['off_by'][name]:+.1%}" for name in FIGURES),
            "kept" if all(load["kept"].values()) else "missed",
        )
        for meta, load in loads
    ]
    header = ("compared, commit", "model, machine", "load", *FIGURES.values(), "bars")
    kept = sum(all(load["kept"].values()) for _, load in loads)
    return (
        f"{markdown_table(header, rows)}\n\n"
        f"How far the simulation is above what was measured. {kept} of {len(loads)} loads keep "
        f"both bars: {BARS[THROUGHPUT]:.0%} of throughput, {BARS[TTFT]:.0%} of the "
        "median TTFT."
    )


def _in_between(meta: Mapping[str, Any]) -> str:
    return ", calibrated in between" if meta.get("recalibrated_rounds") else ""


def _cells(load: Mapping[str, Any], name: str) -> tuple[str, ...]:
    def shown(value: float) -> str:
        return seconds(value) if name.endswith("_s") and "per" not in name else number(value, 1)

    bar = BARS.get(name)
    return (
        shown(load["measured"][name]),
        shown(load["simulated"][name]),
        f"{load['off_by'][name]:+.1%}" if name in load["off_by"] else "",
        "" if bar is None else f"{bar:.0%}",
    )
