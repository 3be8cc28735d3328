"""What a token costs on each type of GPU, and in which order a tier takes them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.core.placement.hardware import Hardware, ModelShape
from serve_app.core.scaling.step_time import StepModel, derived_step_model


@dataclass(frozen=True, slots=True)
class TokenCost:
    """Of one type of GPU for one tier. `token_ms` lies between two tokens of a stream while the
    GPU is full. `usd_per_million_tokens` is None where the GPU's price is not known."""

    accelerator_type: str
    token_ms: float
    usd_per_million_tokens: float | None


@dataclass(frozen=True, slots=True)
class AcceleratorOrder:
    """The first type is the `label_selector`, the others are the `fallback_strategy`."""

    types: tuple[str, ...]
    reason: str


def token_cost(
    hardware: Hardware,
    shape: ModelShape,
    *,
    most_token_ms: float,
    prompt_tokens: float,
    new_tokens: float,
    prices: Mapping[str, float] | None = None,
) -> TokenCost:
    """Of a token of an answer, its part of the prompt included, on a full GPU: with the largest
    batch whose step takes no longer than `most_token_ms`, or one sequence where none does.

    `prices` (dollars an hour, by accelerator type) win over the price that `hardware` has.
    """
    name = hardware.accelerator_type or hardware.name
    known = hardware.price.usd_per_hour if hardware.price else None
    price = (prices or {}).get(name, known)
    steps = derived_step_model(hardware, shape)
    quick_enough = math.floor((most_token_ms - steps.base_ms) / steps.per_sequence_ms)
    batch = max(1, min(hardware.max_sequences, quick_enough))
    usd = None
    if price is not None:
        usd = usd_per_million_tokens(
            steps, price, slots=batch, prompt_tokens=prompt_tokens, new_tokens=new_tokens
        )
    return TokenCost(name, steps.step_ms(batch), usd)


def usd_per_million_tokens(
    steps: StepModel,
    usd_per_hour: float,
    *,
    slots: int,
    prompt_tokens: float,
    new_tokens: float,
) -> float:
    """The price of the GPU's time that a request takes (`StepModel.request_s`), by its new tokens:
    the least that a token can cost there, for idle time costs as much."""
    request_s = steps.request_s(slots=slots, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    return usd_per_hour / 3600 * request_s / new_tokens * 1e6


def order_accelerators(costs: Sequence[TokenCost], *, most_token_ms: float) -> AcceleratorOrder:
    """The cheapest token first, of the types that give a stream a token every `most_token_ms`;
    those that do not, the quickest first, come after them.

    A type without a price comes after those with one. What is equal stays in the order given.
    """
    keeping = [cost for cost in costs if cost.token_ms <= most_token_ms]
    slow = [cost for cost in costs if cost.token_ms > most_token_ms]
    ordered = [
        *sorted(keeping, key=lambda cost: _price(cost)),
        *sorted(slow, key=lambda cost: cost.token_ms),
    ]
    parts = [_in_words(cost, most_token_ms) for cost in ordered]
    return AcceleratorOrder(tuple(cost.accelerator_type for cost in ordered), ", then ".join(parts))


def times_as_dear(cost: TokenCost, than: TokenCost) -> float | None:
    """How many times as much a token costs on one type as on another; None where it is not known,
    or where either costs nothing."""
    usd, than_usd = cost.usd_per_million_tokens, than.usd_per_million_tokens
    return usd / than_usd if usd and than_usd else None


def give_back_reason(times: Sequence[float]) -> str:
    """What is scaled down first, from how many times as much a token costs on each replica's GPU as
    on the tier's first choice; empty where all cost the same."""
    dearest = max(times, default=1.0)
    if dearest <= min(times, default=1.0):
        return ""
    return f"scales down first the GPU whose token costs {dearest:.1f} times as much"


def _price(cost: TokenCost) -> float:
    return math.inf if cost.usd_per_million_tokens is None else cost.usd_per_million_tokens


def _in_words(cost: TokenCost, most_token_ms: float) -> str:
    usd = cost.usd_per_million_tokens
    price = "no price known" if usd is None else f"${usd:.3f} a million tokens"
    slow = f", slower than {most_token_ms:.0f} ms" if cost.token_ms > most_token_ms else ""
    return f"{cost.accelerator_type} ({price}, {cost.token_ms:.0f} ms a token{slow})"
