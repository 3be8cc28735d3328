"""Pieces of a calibration make one profile."""

from dataclasses import replace

import pytest
from rich.console import Console

from loadtest.calibration import validate as recalibration
from loadtest.calibration.calibrate import Calibrated, CalibrationSettings
from loadtest.calibration.validate import Recalibration, settings_between
from loadtest.errors import UserError
from loadtest.simulation.profile import known_profiles
from tests.loadtest.calibration import built
from tests.loadtest.calibration.test_profile_of import ANSWERED, SETTINGS, measured


def pieces_of(
    monkeypatch: pytest.MonkeyPatch, *pieces: Calibrated, settings: CalibrationSettings = SETTINGS
) -> Recalibration:
    coming = iter(pieces)
    monkeypatch.setattr(recalibration, "measure", lambda settings, console: next(coming))
    return Recalibration(settings, Console(quiet=True))


def test_pieces_are_fitted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ANSWERED[:4], ANSWERED[4:]
    parts = (replace(measured(), answered=first), replace(measured(), answered=second))
    again = pieces_of(monkeypatch, *parts)

    assert again.measure_piece()
    assert again.measure_piece()

    profile = again.profile(["validate"])
    assert profile.base_ms.value == pytest.approx(built.BASE_MS, rel=0.01)
    assert profile.per_prompt_token_ms.value == pytest.approx(built.PROMPT_MS, rel=0.01)
    assert profile.measured_on is not None
    assert profile.measured_on.command == "python -m loadtest validate"


def test_an_interrupted_piece_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    again = pieces_of(monkeypatch, replace(measured(), interrupted=True))

    assert not again.measure_piece()


def test_no_piece_makes_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="Nothing"):
        pieces_of(monkeypatch).profile([])


def test_a_piece_keeps_the_profiles_name_and_settings() -> None:
    given = known_profiles()["T4"]

    settings = settings_between(given, base_url="http://a", tier="chat", rounds=2, api_key=None)

    assert (settings.name, settings.rounds) == ("T4", 2)
    assert settings.step_tokens == given.step_tokens.value
    assert settings.slots is None
