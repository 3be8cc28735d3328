"""What options' values mean: GPUs, prices, rates, lengths, the SLO. Errors are argparse's."""

import argparse
import re

from pydantic import ValidationError

from loadtest.scenario import Slo, Uniform, per_second
from serve_app.config.scaling import SloConfig
from serve_app.core.tiers import Tier

# A tier's, if its config says nothing else.
DEFAULT_SLO = f"ttft={SloConfig().ttft_s:g}s,tpot={1e3 * SloConfig().tpot_s:g}ms"
SIMULATED_LIMITS = ("ttft", "tpot", "e2e")
AUTO = "auto"


def gpu_counts(text: str) -> dict[str, int]:
    """`T4=2,RTX4090=1` as counts by GPU; whether the GPUs are known is seen later."""
    counts: dict[str, int] = {}
    for item in text.split(","):
        name, equals, number = item.strip().partition("=")
        if not name or not equals or not number.isdigit():
            raise argparse.ArgumentTypeError(f"{item!r} is no GPU with its count: T4=2,RTX4090=1")
        counts[name] = counts.get(name, 0) + int(number)
    return {name: number for name, number in counts.items() if number}


def prices(text: str) -> dict[str, float]:
    """`T4=0.35,RTX4090=0.40` as dollars an hour by GPU."""
    found: dict[str, float] = {}
    for item in text.split(","):
        name, _, price = item.strip().partition("=")
        try:
            found[name] = positive(price)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{item!r} is no GPU with its price an hour: T4=0.35,RTX4090=0.40"
            ) from None
    return found


def slo(text: str) -> Slo:
    """`ttft=2s,tpot=100ms`, as `python -m loadtest run` reads it."""
    parts = [item.partition("=") for item in text.split(",")]
    limits = {name.strip(): value for name, _, value in parts}
    unknown = ", ".join(name for name in limits if name not in SIMULATED_LIMITS)
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{unknown}: no limit that the simulation knows; write {DEFAULT_SLO}, of "
            f"{', '.join(SIMULATED_LIMITS)}"
        )
    try:
        return Slo.model_validate(limits)
    except ValidationError as error:
        first = error.errors()[0]
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise argparse.ArgumentTypeError(f"{first['loc'][0]}: {reason}") from None


def rates(text: str) -> dict[Tier, float]:
    """`chat=20/s,reasoning=2/s` as requests a second by tier."""
    found: dict[Tier, float] = {}
    for item in text.split(","):
        name, _, rate = item.strip().partition("=")
        try:
            found[_tier(name)] = positive(str(per_second(rate)))
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise argparse.ArgumentTypeError(f"{item!r}: {error}") from None
    return found


def load(text: str) -> float | dict[Tier, float]:
    """`3`, how many times a trace; or rates by tier."""
    return rates(text) if "=" in text else positive(text)


def mix(text: str) -> dict[Tier, float]:
    """`chat=0.8,reasoning=0.2` as shares, which are made to sum to 1."""
    found: dict[Tier, float] = {}
    for item in text.split(","):
        name, _, weight = item.strip().partition("=")
        try:
            found[_tier(name)] = positive(weight)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{item!r}: {error}") from None
    whole = sum(found.values())
    return {tier: weight / whole for tier, weight in found.items()}


def lengths(text: str) -> dict[Tier, Uniform]:
    """`200-800`, or `chat=100-600,reasoning=2000`, as lengths by tier."""
    found: dict[Tier, Uniform] = {}
    for item in text.split(","):
        name, equals, length = item.strip().rpartition("=")
        for tier in (_tier(name),) if equals else tuple(Tier):
            found[tier] = _length(length)
    return found


def initial(text: str) -> dict[Tier, int] | None:
    """`2`, or `chat=2,reasoning=1`, as replicas by tier; `auto` is None."""
    if text == AUTO:
        return None
    found: dict[Tier, int] = {}
    for item in text.split(","):
        name, equals, number = item.strip().rpartition("=")
        for tier in (_tier(name),) if equals else tuple(Tier):
            found[tier] = count(number)
    return found


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is no whole number")
    return int(text)


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def part(text: str) -> float:
    value = share(text)
    if not value:
        raise argparse.ArgumentTypeError("0 would be met by anything")
    return value


def _tier(name: str) -> Tier:
    try:
        return Tier(name)
    except ValueError:
        known = ", ".join(Tier)
        raise argparse.ArgumentTypeError(f"{name!r} is no tier: {known}") from None


def _length(text: str) -> Uniform:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no length: write 256, or 200-800")
    low, high = int(match[1]), int(match[2] or match[1])
    if not 0 < low <= high:
        raise argparse.ArgumentTypeError(f"{text!r}: the first is to be above 0, and not above "
            "the second")  # fmt: skip
    return Uniform(low=low, high=high)
