"""A profile says what the server info, what was measured and what was given; nothing is made up."""

import math
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loadtest.calibration.calibrate import Calibrated, CalibrationSettings, draw, fit, profile_of
from loadtest.calibration.samples import first_tokens
from loadtest.client.server_info import ServerInfo, info_of, kv_tokens_of
from loadtest.errors import UserError
from loadtest.load.targets import Target
from loadtest.simulation.profile import MOST_UNCERTAINTY
from tests.loadtest.calibration import built

SETTINGS = CalibrationSettings(
    base_url="http://127.0.0.1:8000",
    tier="chat",
    name=None,
    rounds=1,
    limit_s=60.0,
    slots=None,
    step_tokens=2048,
    kv_tokens=None,
    start_s=None,
    price_usd_per_hour=None,
    api_key=None,
)
REPORTED = ServerInfo("smollm2", 20, None, 46_592, {"load": 9.5, "total": 27.5})
ANSWERED = [built.answered(batch, 40, 33) for batch in (1, 2, 4, 8)]
ANSWERED += [built.answered(4, 500, 33), *(built.answered(1, n, 2) for n in (40, 300, 1000))]
METRICS = """\
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",num_gpu_blocks="10",tier="reasoning",replica="a"} 1.0
vllm:cache_config_info{block_size="128",num_gpu_blocks="364",tier="chat",replica="b"} 1.0
"""


def measured(info: ServerInfo = REPORTED) -> Calibrated:
    target = Target("http://127.0.0.1:8000/api/chat/v1/chat/completions", "chat", 1024, 4096)
    return Calibrated(info, target, ANSWERED, interrupted=False)


def test_measured_figures_are_those_of_the_steps() -> None:
    profile = profile_of(SETTINGS, measured(), fit(ANSWERED), ["calibrate"])
    assert profile.base_ms.value == pytest.approx(built.BASE_MS, rel=0.01)
    assert profile.per_sequence_ms.value == pytest.approx(built.SEQUENCE_MS, rel=0.01)
    assert profile.per_prompt_token_ms.value == pytest.approx(built.PROMPT_MS, rel=0.01)
    assert profile.overhead_ms.value == pytest.approx(built.OVERHEAD_MS, rel=0.05)
    assert profile.base_ms.status == "measured"
    assert "R2" in profile.base_ms.source


def test_a_measured_figure_has_the_uncertainty_of_its_fit() -> None:
    fits = fit(ANSWERED)
    profile = profile_of(SETTINGS, measured(), fits, "")
    info = fits.line.uncertainty("base_ms")
    assert profile.base_ms.uncertainty == pytest.approx(info, abs=1e-3)
    assert profile.by_sequences is not None
    assert profile.by_sequences.uncertainty == pytest.approx(fits.curve.typical_off, abs=1e-3)
    assert profile.kv_tokens.uncertainty == 0.0, "the server info it"
    # As many figures as samples tell nothing of their errors.
    untold = replace(fits.first_tokens, standard_errors=(math.inf,) * 3)
    profile = profile_of(SETTINGS, measured(), replace(fits, first_tokens=untold), "")
    assert profile.overhead_ms.uncertainty == MOST_UNCERTAINTY


def test_the_picture_has_steps_under_load_too(tmp_path: Path) -> None:
    answers = [*ANSWERED, built.busy(4, 24)]
    fits = fit(answers)
    assert len(fits.steps) == len(fit(ANSWERED).steps) + 1
    draw(fits, first_tokens(answers), "cpu", tmp_path / "fit.png")
    assert (tmp_path / "fit.png").stat().st_size > 10_000


def test_what_the_server_reported_is_in_it() -> None:
    profile = profile_of(SETTINGS, measured(), fit(ANSWERED), ["calibrate"])
    assert (profile.name, profile.accelerator_type, profile.model) == ("cpu", None, "smollm2")
    assert (profile.kv_tokens.value, profile.start_total_s) == (46_592, 27.5)
    assert profile.price_usd_per_hour is None
    assert profile.measured_on is not None
    assert profile.measured_on.command == "python -m loadtest calibrate"


def test_a_known_gpu_keeps_its_name_and_price() -> None:
    on_t4 = measured(replace(REPORTED, accelerator_type="T4"))
    profile = profile_of(SETTINGS, on_t4, fit(ANSWERED), "")
    assert profile.name == "T4"
    assert profile.price_usd_per_hour is not None
    assert profile.price_usd_per_hour.value == 0.526


def test_a_model_directory_is_info_of_its_name_only() -> None:
    elsewhere = measured(replace(REPORTED, model="/home/someone/models/tiny"))
    assert profile_of(SETTINGS, elsewhere, fit(ANSWERED), "").model == "tiny"


@pytest.mark.parametrize(
    ("info", "option"),
    [
        (replace(REPORTED, kv_tokens=None), "--kv-tokens"),
        (replace(REPORTED, start_s=None), "--start-s"),
        (replace(REPORTED, accelerator_type="L4"), "--name"),
    ],
)
def test_what_is_not_reported_has_to_be_given(info: ServerInfo, option: str) -> None:
    with pytest.raises(UserError, match=option):
        profile_of(SETTINGS, measured(info), fit(ANSWERED), "")


def test_what_is_given_wins_and_is_called_so() -> None:
    given = replace(SETTINGS, name="L4", kv_tokens=1000, start_s=45.0, price_usd_per_hour=0.7)
    profile = profile_of(given, measured(), fit(ANSWERED), "")
    assert (profile.name, profile.kv_tokens.value, profile.start_total_s) == ("L4", 1000, 45.0)
    assert {profile.kv_tokens.status, profile.start_s["total"].status} == {"given"}


def test_an_interrupted_measurement_without_prompts_makes_no_profile() -> None:
    with pytest.raises(UserError, match="Too little was measured"):
        fit(ANSWERED[:1])


def test_the_kv_cache_is_the_tiers_own() -> None:
    assert kv_tokens_of(METRICS, "chat") == 364 * 128
    assert kv_tokens_of(METRICS, "reasoning") == 160
    assert kv_tokens_of("", "chat") is None


async def server_info_of(tiers: list[dict[str, object]]) -> ServerInfo:
    async def listed(_: web.Request) -> web.Response:
        return web.json_response({"tiers": tiers})

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=METRICS)

    app = web.Application()
    app.router.add_get("/api/tiers", listed)
    app.router.add_get("/metrics", metrics)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        return await info_of(session, str(server.make_url("")).rstrip("/"), "chat")


REPLICA = {"slots": 20, "accelerator_type": None, "engine": "vllm", "start_phases_s": {"total": 9}}


async def test_a_tier_reports_its_replica() -> None:
    info = await server_info_of([{"tier": "chat", "model": "smollm2", "replicas": [REPLICA]}])
    assert info == ServerInfo("smollm2", 20, None, 46_592, {"total": 9})


@pytest.mark.parametrize(
    ("tiers", "words"),
    [
        ([{"tier": "reasoning", "replicas": [REPLICA]}], "--tier chat: the server has reasoning"),
        ([{"tier": "chat", "replicas": [REPLICA, REPLICA]}], "has 2 replicas"),
        ([{"tier": "chat", "replicas": [{**REPLICA, "engine": "fake"}]}], "fake engine"),
    ],
)
async def test_a_server_that_cannot_be_calibrated_is_said(
    tiers: list[dict[str, object]], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        await server_info_of(tiers)
