"""Calibration in pieces, between other runs on the same server."""

from dataclasses import replace

from rich.console import Console

from loadtest.calibration.calibrate import Measured, Wanted, fit, measure, profile_of
from loadtest.calibration.waves import Answered
from loadtest.load.faults import LoadFault
from loadtest.simulation.profile import GpuProfile as CardProfile

# A piece is of few rounds, and none is left out.
NO_LIMIT_S = float("inf")


class Recalibration:
    """Steps and first tokens are measured in as many pieces as are asked for, and fitted as one."""

    def __init__(self, wanted: Wanted, console: Console) -> None:
        self._wanted = wanted
        self._console = console
        self._answered: list[Answered] = []
        self._last: Measured | None = None

    def measure_piece(self) -> bool:
        """False where Ctrl-C came."""
        self._console.print(f"calibrating, {self._wanted.rounds} rounds", highlight=False)
        self._last = measure(self._wanted, self._console)
        self._answered.extend(self._last.answered)
        return not self._last.interrupted

    def profile(self, command: str) -> CardProfile:
        """Of all pieces together. Raises LoadFault where they are too little."""
        if self._last is None:
            raise LoadFault("Nothing was calibrated.")
        whole = replace(self._last, answered=self._answered)
        return profile_of(self._wanted, whole, fit(self._answered), command)


def wanted_between(
    given: CardProfile, *, base_url: str, tier: str, rounds: int, api_key: str | None
) -> Wanted:
    """What a piece asks: the settings of `given`, and all else of the server."""
    return Wanted(
        base_url=base_url,
        tier=tier,
        name=given.name,
        rounds=rounds,
        limit_s=NO_LIMIT_S,
        slots=None,
        step_tokens=int(given.step_tokens.value),
        kv_tokens=None,
        start_s=None,
        price_usd_per_hour=None,
        api_key=api_key,
    )
