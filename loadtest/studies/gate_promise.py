"""`python -m loadtest gate-promise`: what the gate promises, kept by a real server in overload.

For each mix of prompt and answer lengths: the capacity first, from clients that fill all slots and
ask again at once; then Poisson arrivals at `--loads` of it, where a refused request comes back at
its Retry-After, once. Of the admitted, a first token is in time within the tier's `max_wait_s` and
a step, and as promised within twice that where the request came back; a Retry-After is honest where
the request is admitted when it comes back.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console

from loadtest.client.chat import open_session
from loadtest.client.record import Record
from loadtest.client.server_info import tiers_of
from loadtest.errors import MeasurementError, UserError
from loadtest.load.arrivals import schedule
from loadtest.load.run import measure, on_own_loop
from loadtest.load.summary import retries_kept
from loadtest.options import base_url, natural, not_negative, positive
from loadtest.report.results_file import META, provenance
from loadtest.scenario import Closed, Load, Poisson, Scenario, Uniform

DESCRIPTION = (__doc__ or "").split("\n\n")[0]
HELP_FORMAT = argparse.HelpFormatter
MIXES = ("10/10", "10/400", "300/100", "1500/15", "10-1000/10-400")
# Of a phase, the first part is the way to its level.
SETTLED_FROM = 0.4
FIRST_GAPS = 3
# Behind the last promise: what a whole answer takes on slow cores.
LAST_ANSWER_S = 300.0
TIMEOUT = aiohttp.ClientTimeout(total=30.0)


@dataclass(frozen=True, slots=True)
class Mix:
    """Lengths in tokens; a range is uniform."""

    name: str
    input_tokens: int | Uniform
    output_tokens: int | Uniform

    @classmethod
    def read(cls, text: str) -> "Mix":
        """`PROMPT/ANSWER`, each a number or LOW-HIGH. Raises argparse's error."""
        parts = text.split("/")
        try:
            prompt, answer = (_tokens(part) for part in parts)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no mix: write 300/100 or 10-1000/10-400"
            ) from None
        return cls(text, prompt, answer)


@dataclass(frozen=True, slots=True)
class Kept:
    """Of one mix at one load. `in_time`: of the admitted, within the longest wait; `as_promised`:
    or within twice that, where it came back; `longest_s` of their first tokens; `per_s`: requests
    as promised that ended in a second of the settled part; `honest` is None where none was refused
    and came back."""

    mix: str
    load: float
    requests: int
    admitted: int
    in_time: float
    as_promised: float
    longest_s: float
    refused: int
    honest: float | None
    per_s: float


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--base-url",
        type=base_url,
        default="http://127.0.0.1:8000",
        help="of the service; else port 8000 here",
    )
    add("--tier", default="chat", help="whose gate it is; else chat")
    add(
        "--mixes",
        type=Mix.read,
        nargs="+",
        metavar="PROMPT/ANSWER",
        default=[Mix.read(name) for name in MIXES],
        help=f"tokens, or LOW-HIGH; else {' '.join(MIXES)}",
    )
    add(
        "--loads",
        type=not_negative,
        nargs="+",
        default=[0.5, 1.0, 2.0, 3.0],
        help="of the capacity; else 0.5 1 2 3",
    )
    add("--phase-s", type=positive, default=60, help="in which requests come; else 60")
    add("--seed", type=natural, default=0, help="of arrivals and lengths")
    add("--json", type=Path, metavar="FILE", help="also write what was measured")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """Raises MeasurementError where a request is neither served nor refused."""
    slots, max_wait_s = on_own_loop(_gate_of(options))
    found: list[Kept] = []
    for mix in options.mixes:
        capacity = _capacity(options, mix, slots)
        console.print(f"{mix.name}: {capacity:.2f} requests a second at capacity")
        for load in options.loads:
            records = _play(_scenario(options, mix, Poisson(rate=load * capacity)))
            found.append(_kept(records, options, mix, load, max_wait_s))
            console.print(f"{mix.name} at {load:g}: {found[-1].in_time:.1%} in time")
    console.print(table(found), highlight=False, markup=False, soft_wrap=True)
    if options.json is not None:
        document = {META: provenance(argv), "kept": [asdict(each) for each in found]}
        options.json.write_text(json.dumps(document) + "\n")
    return 0


def table(found: Sequence[Kept]) -> str:
    """In Markdown; goodput by that of the same mix at load 1, or at the load next to it."""
    rows = [
        "| prompt / answer tokens | load | requests | in time, of the admitted "
        "| or came back, within twice | longest | refused "
        "| Retry-After honest | as promised a second | of that at capacity |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in found:
        same = [other for other in found if other.mix == each.mix]
        capacity = min(same, key=lambda other: abs(other.load - 1))
        cells = (
            each.mix,
            f"{each.load:g}",
            str(each.requests),
            f"{each.in_time:.1%}",
            f"{each.as_promised:.1%}",
            f"{each.longest_s:.1f} s",
            str(each.refused),
            "" if each.honest is None else f"{each.honest:.1%}",
            f"{each.per_s:.2f}",
            f"{each.per_s / capacity.per_s:.2f}" if capacity.per_s else "",
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


async def _gate_of(options: argparse.Namespace) -> tuple[int, float]:
    """Slots of all replicas of the tier, and the longest wait that it allows."""
    async with open_session(TIMEOUT) as http:
        tier = (await tiers_of(http, options.base_url) or {}).get(options.tier)
    if tier is None:
        raise UserError(f"{options.base_url} reports no tier {options.tier}.")
    if tier.get("settings") is None:
        raise UserError(f"{options.base_url}: no replica of {options.tier} is ready yet.")
    return int(tier["slots"]), float(tier["settings"]["admission"]["max_wait_s"])


def _capacity(options: argparse.Namespace, mix: Mix, slots: int) -> float:
    records = _play(_scenario(options, mix, Closed(kind="closed", concurrency=slots)))
    ended = len(list(_settled(records, options.phase_s)))
    if not ended:
        raise MeasurementError(f"{mix.name}: no answer ended in {options.phase_s} s.")
    return ended / ((1 - SETTLED_FROM) * options.phase_s)


def _scenario(options: argparse.Namespace, mix: Mix, arrivals: Closed | Poisson) -> Scenario:
    load = Load(
        tier=options.tier,
        arrivals=arrivals,
        input_tokens=mix.input_tokens,
        output_tokens=mix.output_tokens,
    )
    return Scenario(
        name="gate-promise",
        base_url=options.base_url,
        duration=options.phase_s,
        seed=options.seed,
        loads=(load,),
        drain=_last_promise_s(options) + LAST_ANSWER_S,
        # In the closed phase, too: the gate counts with as many as came back so far.
        retries=1,
    )


def _last_promise_s(options: argparse.Namespace) -> float:
    """After the last arrival: what came beyond the capacity was told to come back then."""
    return float(options.phase_s * max(0.0, max(options.loads) - 1))


def _play(scenario: Scenario) -> list[Record]:
    with tempfile.TemporaryDirectory() as folder:
        silent = Console(quiet=True)
        work = measure(scenario, schedule(scenario), Path(folder) / "run", silent)
        measured = on_own_loop(work)
    if measured.interrupted:
        raise KeyboardInterrupt
    failed = [each for each in measured.records if each.outcome not in ("served", "refused")]
    if failed:
        first = failed[0]
        raise MeasurementError(f"a request failed: {first.outcome}, {first.reason} {first.detail}")
    return measured.records


def _kept(
    records: Sequence[Record],
    options: argparse.Namespace,
    mix: Mix,
    load: float,
    max_wait_s: float,
) -> Kept:
    served = [each for each in records if each.served]
    in_time = [each for each in served if _in_time(each, max_wait_s)]
    promised = [each for each in served if _in_time(each, (2 if each.refusals else 1) * max_wait_s)]
    returns = retries_kept(records)
    settled_s = (1 - SETTLED_FROM) * options.phase_s
    return Kept(
        mix=mix.name,
        load=load,
        requests=len(records),
        admitted=len(served),
        in_time=len(in_time) / max(1, len(served)),
        as_promised=len(promised) / max(1, len(served)),
        longest_s=max((each.ttft_s or 0.0 for each in served), default=0.0),
        refused=int(returns["refused_requests"]),
        honest=returns["kept_share"],
        per_s=len(list(_settled(promised, options.phase_s))) / settled_s,
    )


def _in_time(record: Record, max_wait_s: float) -> bool:
    """A step is the longest of its stream's first gaps: the steps next to its first one."""
    step_s = max(record.itl_s[:FIRST_GAPS], default=0.0)
    return record.ttft_s is not None and record.ttft_s <= max_wait_s + step_s


def _settled(records: Sequence[Record], phase_s: float) -> Iterator[Record]:
    for record in records:
        if record.ended_s is not None and SETTLED_FROM * phase_s <= record.ended_s < phase_s:
            yield record


def _tokens(text: str) -> Any:
    low, _, high = text.partition("-")
    return Uniform(low=int(low), high=int(high)) if high else positive(text)
