"""`python -m loadtest calibrate`: the profile of a card, from a server that runs on it."""

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from loadtest.evaluation import options as common
from loadtest.load.faults import LoadFault
from loadtest.simulation.profile import GpuProfile as CardProfile
from loadtest.simulation.profile import write_profile
from serve_app.core.tiers import Tier

if TYPE_CHECKING:
    from loadtest.calibration.calibrate import Wanted
    from loadtest.calibration.fit import Fits

INTERRUPTED = 130
DESCRIPTION = """\
Measures a server that nothing else asks, in a few minutes: decode steps by batch size and context,
first tokens by length of the prompt, the KV cache and the start as the server tells them. Writes
the profile that `simulate --profile` takes, and a picture of the fit beside it. Run it on the
server's machine, whose name and versions it writes down."""
EXAMPLES = """examples:
  one replica of the chat tier:
    python -m loadtest calibrate --tier chat --out t4.json
  any vLLM server:
    python -m loadtest calibrate --base-url http://127.0.0.1:8000/v1 --slots 64 --start-s 45 \\
      --name L4 --out l4.json

docs/calibration.md says how each figure is found."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "calibrate",
        help="the profile of a card for the simulation, from a running server",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_server(parser)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FILE", help="the profile, JSON")
    add("--name", help="of the card; T4, RTX4090 or cpu by what the server tells, if not given")
    add("--rounds", type=common.positive, default=5, help="how often each is measured at most (5)")
    add("--limit-s", type=common.positive, default=240, metavar="SECONDS",
        help="no further round begins that would end later (240)")  # fmt: skip
    add("--price-usd-per-hour", type=float, metavar="USD", help="the known profile's if not given")
    told = parser.add_argument_group("where the server does not tell it").add_argument
    told("--slots", type=common.positive, metavar="N", help="most sequences at once")
    told("--kv-tokens", type=common.positive, metavar="N", help="what the KV cache holds")
    told("--start-s", type=float, metavar="SECONDS", help="from its process to its readiness")
    told("--step-tokens", type=common.positive, default=2048, metavar="N",
         help="vLLM's max_num_batched_tokens (2048)")  # fmt: skip


def add_server(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base-url", type=common.base_url, default="http://127.0.0.1:8000", metavar="URL",
        help="of a server with tiers; with /v1 at its end of any vLLM server "
        "(http://127.0.0.1:8000)")  # fmt: skip
    add("--tier", default=Tier.CHAT.value, help="of one replica (chat)")
    add("--api-key", help="else OPENAI_API_KEY, if it is set")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """The exit code; a user's fault is one message."""
    try:
        return _run(options, argv, console)
    except LoadFault as fault:
        console.print(str(fault), style="bold red", highlight=False, markup=False, soft_wrap=True)
        return 2


def _run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    from loadtest.calibration import calibrate, plot, samples
    from loadtest.load.command import without_key

    wanted = wanted_of(options)
    measured = calibrate.measure(wanted, console)
    fits = calibrate.fit(measured.answered)
    command = shlex.join(["python", "-m", "loadtest", *without_key(argv)])
    profile = calibrate.profile_of(wanted, measured, fits, command)
    write_profile(options.out, profile)
    picture = options.out.with_suffix(".png")
    plot.draw(
        fits,
        samples.first_tokens(measured.answered),
        f"{profile.name}, {profile.model}",
        picture,
    )
    tell(profile, fits, console)
    console.print(f"wrote {options.out} and {picture}", soft_wrap=True, highlight=False)
    return INTERRUPTED if measured.interrupted else 0


def wanted_of(options: argparse.Namespace) -> "Wanted":
    from loadtest.calibration.calibrate import Wanted

    return Wanted(
        base_url=options.base_url,
        tier=options.tier,
        name=options.name,
        rounds=options.rounds,
        limit_s=options.limit_s,
        slots=options.slots,
        step_tokens=options.step_tokens,
        kv_tokens=options.kv_tokens,
        start_s=options.start_s,
        price_usd_per_hour=options.price_usd_per_hour,
        api_key=options.api_key or os.environ.get("OPENAI_API_KEY"),
    )


def tell(profile: CardProfile, fits: "Fits", console: Console) -> None:
    table = Table(title=f"{profile.name}: {profile.model}", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("how")
    for name in (
        *("base_ms", "per_sequence_ms", "per_context_ktoken_ms", "per_prompt_token_ms"),
        *("per_prompt_mpair_ms", "per_prompt_ms", "overhead_ms"),
        *("step_tokens", "kv_tokens", "max_sequences"),
    ):
        figure = getattr(profile, name)
        value = f"{figure.value:,.5g}" + (f" ± {figure.share:.1%}" if figure.share else "")
        table.add_row(name, value, f"{figure.status}; {figure.source}")
    curve = profile.by_sequences
    assert curve is not None
    for sequences, step_ms in curve.step_ms.items():
        table.add_row(f"step of {sequences}, ms", f"{step_ms:,.5g}", curve.status)
    total = profile.start_s["total"]
    table.add_row("start_s, total", f"{total.value:,.5g}", f"{total.status}; {total.source}")
    console.print(table)
    prefill = profile.per_prompt_token_ms.value
    console.print(
        f"One stream {1e3 / profile.step_ms(1):,.0f} tokens/s; prefill "
        f"{1e3 / prefill if prefill else float('inf'):,.0f} tokens/s.",
        highlight=False,
    )
