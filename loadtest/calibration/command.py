"""`python -m loadtest calibrate`: the profile of a GPU, from a server that runs on it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from loadtest.errors import INTERRUPTED
from loadtest.options import add_api_key, api_key_of, base_url, positive
from loadtest.simulation.profile import GpuProfile, write_profile
from serve_app.core.tiers import Tier

if TYPE_CHECKING:
    from loadtest.calibration.calibrate import CalibrationSettings
    from loadtest.calibration.fit import Fits

DESCRIPTION = """\
Measures a server that nothing else asks, in a few minutes: decode steps by batch size and context,
first tokens by length of the prompt, the KV cache and the start as the server reports them. Writes
the profile that `simulate --profile` takes, and a picture of the fit beside it. Run it on the
server's machine, whose name and versions it writes down."""
EPILOG = """examples:
  one replica of the chat tier:
    python -m loadtest calibrate --tier chat --out t4.json
  any vLLM server:
    python -m loadtest calibrate --base-url http://127.0.0.1:8000/v1 --slots 64 --start-s 45 \\
      --name L4 --out l4.json

docs/calibration.md says how each figure is found."""
HELP_FORMAT = argparse.RawDescriptionHelpFormatter


def add_options(parser: argparse.ArgumentParser) -> None:
    add_server(parser)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FILE", help="the profile, JSON")
    add("--name", help="of the GPU; T4, RTX4090 or cpu by what the server reports, if not given")
    add("--rounds", type=positive, default=5, help="how often each is measured at most (5)")
    add("--limit-s", type=positive, default=240, metavar="SECONDS",
        help="no further round begins that would end later (240)")  # fmt: skip
    add("--price-usd-per-hour", type=float, metavar="USD", help="the known profile's if not given")
    add = parser.add_argument_group("where the server does not report it").add_argument
    add("--slots", type=positive, metavar="N", help="most sequences at once")
    add("--kv-tokens", type=positive, metavar="N", help="what the KV cache holds")
    add("--start-s", type=float, metavar="SECONDS", help="from its process to its readiness")
    add("--step-tokens", type=positive, default=2048, metavar="N",
        help="vLLM's max_num_batched_tokens (2048)")  # fmt: skip


def add_server(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base-url", type=base_url, default="http://127.0.0.1:8000", metavar="URL",
        help="of a server with tiers; with /v1 at its end of any vLLM server "
        "(http://127.0.0.1:8000)")  # fmt: skip
    add("--tier", default=Tier.CHAT.value, help="of one replica (chat)")
    add_api_key(parser)


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    from loadtest.calibration import calibrate, samples

    settings = settings_of(options)
    measured = calibrate.measure(settings, console)
    fits = calibrate.fit(measured.answered)
    profile = calibrate.profile_of(settings, measured, fits, argv)
    write_profile(options.out, profile)
    picture = options.out.with_suffix(".png")
    first_tokens = samples.first_tokens(measured.answered)
    calibrate.draw(fits, first_tokens, f"{profile.name}, {profile.model}", picture)
    show(profile, fits, console)
    console.print(f"wrote {options.out} and {picture}", soft_wrap=True, highlight=False)
    return INTERRUPTED if measured.interrupted else 0


def settings_of(options: argparse.Namespace) -> "CalibrationSettings":
    from loadtest.calibration.calibrate import CalibrationSettings

    names = ("base_url", "tier", "name", "rounds", "limit_s", "slots", "step_tokens", "kv_tokens")
    given = {name: getattr(options, name) for name in (*names, "start_s", "price_usd_per_hour")}
    return CalibrationSettings(**given, api_key=api_key_of(options))


def show(profile: GpuProfile, fits: "Fits", console: Console) -> None:
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
