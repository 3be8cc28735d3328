"""Scenarios from YAML files and from flags; what is wrong with one, by its path in the file."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from loadtest.errors import UserError
from loadtest.scenario import Scenario, Slo, per_second
from loadtest.simulation.trace import tier_of_file
from serve_app.core.tiers import Tier

DEFAULT_DURATION = "60s"
_UNION_MEMBERS = frozenset(
    ("poisson", "constant", "ramp", "burst", "trace", "closed", "number", "uniform", "lognormal")
)


def read(path: Path) -> Scenario:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} holds no scenario: it is to be a mapping with `loads`.")
    document.setdefault("name", path.stem)
    return _with_files_beside(checked(document, str(path)), path.parent)


def checked(document: Mapping[str, Any], source: str) -> Scenario:
    try:
        return Scenario.model_validate(document)
    except ValidationError as error:
        # A list all of whose items are wrong is also called too short.
        errors = [e for e in error.errors() if e["type"] != "too_short"]
        lines = [f"  {_place(e['loc'])}{_words(e)}" for e in errors or error.errors()]
        raise UserError("\n".join([f"{source}:", *dict.fromkeys(lines)])) from None


def _place(location: tuple[int | str, ...]) -> str:
    """`loads.0.arrivals.rate: `; the names of a union's members are no keys of the file."""
    parts = [str(part) for part in location if part not in _UNION_MEMBERS]
    return f"{'.'.join(parts)}: " if parts else ""


def _words(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such key"
    if error["type"] == "missing":
        return "is missing"
    return str(error["msg"]).removeprefix("Value error, ")


def _with_files_beside(scenario: Scenario, folder: Path) -> Scenario:
    """A trace's path is relative to the file that names it."""
    loads = [
        load.model_copy(
            update={"arrivals": load.arrivals.model_copy(update={"file": folder / path})}
        )
        if (path := getattr(load.arrivals, "file", None))
        else load
        for load in scenario.loads
    ]
    return scenario.model_copy(update={"loads": tuple(loads)})


def slo_of(text: str) -> Slo:
    """`ttft=2s,tpot=100ms`. Raises UserError."""
    try:
        return Slo.model_validate(_slo(text))
    except ValidationError as error:
        words = "; ".join(f"{_place(e['loc'])}{_words(e)}" for e in error.errors())
        raise UserError(f"--slo {text}: {words}") from None


def from_flags(options: argparse.Namespace) -> Scenario:
    """The quick case: all tiers alike but for their rates."""
    common = {
        "input_tokens": _tokens(options.input_tokens, "--input-tokens"),
        "output_tokens": _tokens(options.output_tokens, "--output-tokens"),
        **({"model": options.model} if options.model else {}),
    }
    duration = options.duration
    if duration is None and options.requests is None and options.trace is None:
        duration = DEFAULT_DURATION
    document = {
        "loads": [{**load, **common, "requests": options.requests} for load in _loads(options)],
        "duration": duration,
        "slo": _slo(options.slo) if options.slo else None,
        "name": options.name,
    }
    return checked(document, "The options")


def _loads(options: argparse.Namespace) -> list[dict[str, Any]]:
    tiers = options.tier or []
    if options.trace is not None:
        return _of_trace(options, tiers)
    if options.concurrency is not None:
        arrivals = {"kind": "closed", "concurrency": options.concurrency}
        return [{"tier": _name(tier), "arrivals": arrivals} for tier in tiers or ["chat"]]
    if not tiers:
        raise UserError("Say what comes: --tier chat=3/s, --concurrency, --trace or --scenario.")
    return [{"tier": _name(tier), "arrivals": _arrivals(options, tier)} for tier in tiers]


def _of_trace(options: argparse.Namespace, tiers: list[str]) -> list[dict[str, Any]]:
    arrivals = {"kind": "trace", "file": options.trace, "speed": options.speed}
    if not tiers:
        try:
            tiers = [tier_of_file(options.trace) or Tier.CHAT]
        except UserError as error:
            raise UserError(f"--trace: {error}") from None
    return [{"tier": _name(tier), "arrivals": arrivals} for tier in tiers]


def _arrivals(options: argparse.Namespace, tier: str) -> dict[str, Any]:
    _, equals, rates = tier.partition("=")
    if not equals:
        raise UserError(f"--tier {tier} has no rate: write --tier {tier}=3/s.")
    first, dots, last = rates.partition("..")
    kind = "ramp" if dots else options.arrivals
    if kind == "ramp":
        return {"kind": kind, "rate": first, "to": last or first}
    if kind == "burst":
        return _bursts(options, first)
    return {"kind": kind, "rate": first}


def _bursts(options: argparse.Namespace, rate: str) -> dict[str, Any]:
    try:
        base = per_second(rate)
    except ValueError as error:
        raise UserError(f"--tier: {error}") from None
    return {
        "kind": "burst",
        "rate": base,
        "burst_rate": base * options.burst_factor,
        "every": options.burst_every,
        "length": options.burst_length,
    }


def _name(tier: str) -> str:
    return tier.partition("=")[0]


def _tokens(text: str, option: str) -> int | dict[str, int]:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if match is None:
        raise UserError(f"{option} {text} is no length: write 256, or 64-512 for all between.")
    low, high = match.groups()
    return int(low) if high is None else {"low": int(low), "high": int(high)}


def _slo(text: str) -> dict[str, str]:
    parts = [part.partition("=") for part in text.split(",")]
    if not all(equals for _, equals, _ in parts):
        raise UserError(f"--slo {text} is to look like ttft=2s,tpot=100ms.")
    return {name.strip(): value for name, _, value in parts}
