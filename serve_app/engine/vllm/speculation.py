"""What `engine.speculation` asks of vLLM, and whether this installation can do it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from serve_app.engine.vllm.drafting import RUNNER_V1, RUNNER_VARIABLE

# vLLM asks for this release.
SUFFIX_PACKAGE, SUFFIX_RELEASE = "arctic_inference", "arctic-inference==0.1.1"
# Without which a promise to a request would not hold with drafts.
PATCHES_FOR_DRAFTS = ("draft_limits", "thinking_budget", "stop_strings", "grammar_budget")


class SpeculationError(RuntimeError):
    """This installation cannot do what `engine.speculation` asks for; the message says why."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """vLLM's `method`, and whether drafts are verified only where steps, measured, pay."""

    method: str
    measured: bool


def chosen_speculation(setting: str) -> Speculation | None:
    """For a value of `engine.speculation`; None: `off`. Raises SpeculationError."""
    if setting == "off":
        return None
    has_suffix = find_spec(SUFFIX_PACKAGE) is not None
    if setting == "suffix" and not has_suffix:
        raise SpeculationError(
            "engine.speculation: suffix needs a package that is not installed here. Install "
            f"{SUFFIX_RELEASE}, or set ngram, or auto, which takes what there is."
        )
    if setting == "auto":
        return Speculation("suffix" if has_suffix else "ngram", measured=True)
    return Speculation(setting, measured=False)


def choose_runner(environment: Mapping[str, str] = os.environ) -> None:
    """Have vLLM run model runner V1, in which the promises to requests hold with drafts. Raises
    SpeculationError where an operator has chosen V2."""
    if environment.get(RUNNER_VARIABLE) not in (None, "", RUNNER_V1):
        raise SpeculationError(
            f"engine.speculation needs vLLM's model runner V1, and {RUNNER_VARIABLE} is set to "
            f"{environment[RUNNER_VARIABLE]}. Unset it, or set engine.speculation: off."
        )
    os.environ[RUNNER_VARIABLE] = RUNNER_V1


def check_patches(active: Mapping[str, bool]) -> None:
    """Raise SpeculationError where a patch is missing that drafts need."""
    missing = [name for name in PATCHES_FOR_DRAFTS if not active.get(name, False)]
    if missing:
        raise SpeculationError(
            f"engine.speculation needs patches that this vLLM does not take: {', '.join(missing)}. "
            "Set engine.speculation: off, or install the vLLM of docs/compatibility.md."
        )
