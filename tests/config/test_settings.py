"""Settings: unknown keys refused, the environment wins, defaults by tier."""

import os

import pytest
from pydantic import ValidationError

from serve_app.config.tier import (
    ENV_PREFIX,
    TierArgs,
    TierSettings,
    WebArgs,
    refuse_unknown_variables,
    starting_settings,
    tier_args,
    tier_settings,
)
from serve_app.core.tiers import Tier

BOTH = pytest.mark.parametrize("tier", list(Tier))


@pytest.fixture(autouse=True)
def _no_variables_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("tier", "limit"), [(Tier.CHAT, 1024), (Tier.REASONING, 2048)])
def test_each_tier_has_its_own_limit_of_new_tokens(tier: Tier, limit: int) -> None:
    assert tier_settings(tier, {}).max_new_tokens == limit
    assert tier_settings(tier, {"max_new_tokens": 7}).max_new_tokens == 7


@pytest.mark.parametrize(
    "user_config",
    [
        {"max_new_token": 5},
        {"admission": {"max_wait": 5}},
        {"slo": {"ttft": 2}},
        {"sampling": {"temprature": 0.5}},
        {"engine": {}},
        {"model": "x"},
    ],
)
def test_unknown_live_settings_are_refused(user_config: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        tier_settings(Tier.CHAT, user_config)


@BOTH
def test_what_a_replica_starts_with_fits_any_context(tier: Tier) -> None:
    """Its own settings come when its engine is up: until then no default may refuse a context."""
    assert starting_settings(tier, 64).max_new_tokens == 32
    assert starting_settings(tier, 8192) == tier_settings(tier, {})


@pytest.mark.parametrize(
    "args", [{"modle": "x"}, {"engine": {"dtyp": "half"}}, {"max_new_tokens": 5}]
)
def test_unknown_arguments_are_refused(args: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        tier_args({"tier": "chat", **args})
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        WebArgs(**args)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "user_config",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": "many"},
        {"admission": {"max_wait_s": 0}},
        {"admission": {"max_queued_requests": -1}},
        {"slo": {"ttft_s": 0}},
        {"slo": {"tpot_s": -0.1}},
        {"admission": {"max_running_sequences": 0}},
        {"sampling": {"top_p": 0}},
        {"sampling": {"temperature": -1}},
        {"max_body_bytes": 10},
    ],
)
def test_settings_out_of_range_are_refused_as_a_whole(user_config: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        tier_settings(Tier.CHAT, {"system_prompt": "fine", **user_config})


def test_an_unknown_tier_is_refused_and_a_tier_must_be_named() -> None:
    with pytest.raises(ValidationError):
        tier_args({"tier": "fast"})
    with pytest.raises(ValidationError):
        tier_args({})


def test_the_default_model_is_the_small_r1_distill() -> None:
    assert tier_args({"tier": "chat"}).model == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"


def test_the_environment_wins_over_the_config_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERSERVE_MODEL", "smollm2")
    monkeypatch.setenv("TIERSERVE_ENGINE__DTYPE", "float32")
    args = tier_args({"tier": "chat", "model": "x", "engine": {"dtype": "half", "seed": 3}})
    assert (args.model, args.engine.dtype, args.engine.seed) == ("smollm2", "float32", 3)


def test_a_tiers_variable_changes_that_tier_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERSERVE_CHAT__ADMISSION__MAX_WAIT_S", "3.5")
    monkeypatch.setenv("TIERSERVE_CHAT__MAX_NEW_TOKENS", "100")
    config = {"max_new_tokens": 500, "admission": {"max_wait_s": 20, "heartbeat_s": 1}}
    chat, reasoning = tier_settings(Tier.CHAT, config), tier_settings(Tier.REASONING, config)
    assert (chat.max_new_tokens, chat.admission.max_wait_s) == (100, 3.5)
    assert chat.admission.heartbeat_s == 1
    assert (reasoning.max_new_tokens, reasoning.admission.max_wait_s) == (500, 20)


def test_a_tier_has_an_slo_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERSERVE_REASONING__SLO__TTFT_S", "5")
    chat, reasoning = (tier_settings(tier, {"slo": {"tpot_s": 0.05}}) for tier in Tier)
    assert (chat.slo.ttft_s, chat.slo.tpot_s) == (2.0, 0.05)
    assert (reasoning.slo.ttft_s, reasoning.slo.tpot_s) == (5.0, 0.05)


def test_a_variable_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERSERVE_CHAT__MAX_NEW_TOKENS", "-5")
    with pytest.raises(ValidationError):
        tier_settings(Tier.CHAT, {})


@BOTH
@pytest.mark.parametrize(
    "name",
    [
        "TIERSERVE_MODELL",
        "TIERSERVE_TIER",
        "TIERSERVE_CHAT",
        "TIERSERVE_CHAT__MAX_WAIT_S",
        "TIERSERVE_CHAT__ADMISSION__MAX_WAIT",
        "TIERSERVE_REASONING_MAX_NEW_TOKENS",
        "TIERSERVE_ENGINE__DTYP",
        "TIERSERVE_MAX_NEW_TOKENS",
    ],
)
def test_a_misspelt_variable_is_refused_by_name(
    tier: Tier, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ValueError, match=f"{name} is not a setting"):
        tier_settings(tier, {})
    with pytest.raises(ValueError, match=f"{name} is not a setting"):
        tier_args({"tier": tier})


def test_every_setting_has_a_variable() -> None:
    for field in TierSettings.model_fields:
        for tier in Tier:
            refuse_unknown_variables({f"TIERSERVE_{tier.value.upper()}__{field.upper()}": ""})
    for field in (TierArgs.model_fields | WebArgs.model_fields).keys() - {"tier"}:
        refuse_unknown_variables({f"TIERSERVE_{field.upper()}": ""})
    refuse_unknown_variables({"TIERSERVE_CACHE": "", "PATH": "", "OTHER_TIERSERVE_X": ""})


def test_every_setting_is_documented() -> None:
    def undocumented(model: type) -> list[str]:
        fields = getattr(model, "model_fields", {})
        return [name for name, field in fields.items() if not field.description] + [
            inner for field in fields.values() for inner in undocumented(field.annotation)
        ]

    assert [undocumented(model) for model in (TierArgs, TierSettings, WebArgs)] == [[], [], []]


def test_settings_do_not_change_behind_the_back() -> None:
    settings = tier_settings(Tier.CHAT, {})
    with pytest.raises(ValidationError, match="frozen"):
        settings.max_new_tokens = 5


def test_settings_survive_the_way_through_serves_config() -> None:
    settings = tier_settings(Tier.CHAT, {"sampling": {"temperature": 0.6}})
    assert tier_settings(Tier.CHAT, settings.model_dump(mode="json")) == settings


def test_settings_of_the_former_scaling_law_break_no_config(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = tier_settings(Tier.CHAT, {"scaling": {"wait_share": 0.5, "goodput": 0.95}})
    assert settings.scaling.goodput == 0.95
    assert "wait_share: no longer used" in caplog.text
    with pytest.raises(ValueError, match="wait_shares"):
        tier_settings(Tier.CHAT, {"scaling": {"wait_shares": 0.5}})
    with pytest.raises(ValueError, match="least_hold_s 900 is above most_hold_s 600"):
        tier_settings(Tier.CHAT, {"scaling": {"least_hold_s": 900}})
