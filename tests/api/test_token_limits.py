"""A limit above the tier's: refused where a client can know it, lowered where it cannot."""

from typing import Any

import pytest

from serve_app.api.routes import COMPLETIONS, GENERATING, MESSAGES, Endpoint
from serve_app.api.token_budget import TierLimit, keep_budget_below, limit_new_tokens
from serve_app.config.answers import LimitsConfig
from serve_app.core.tiers import Tier
from serve_app.errors import RequestError
from tests.api.asgi import FakeEngine, answers, call
from tests.builders import an_edge, some_settings
from tests.virtual_time import run_virtual, virtual

DONE = {"choices": []}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}]},
}
LOWERS = TierLimit(Tier.CHAT, 1024, lowers=True)


def refusal(payload: dict[str, Any], limit: TierLimit, endpoint: Endpoint = COMPLETIONS) -> str:
    with pytest.raises(RequestError) as caught:
        limit_new_tokens(payload, endpoint, limit)
    assert (caught.value.status, caught.value.code) == (400, "max_tokens_exceeds_tier_limit")
    return caught.value.message


@pytest.mark.parametrize("endpoint", GENERATING.values(), ids=lambda each: each.name)
def test_each_name_of_the_limit_is_lowered_with_a_warning(endpoint: Endpoint) -> None:
    for name in endpoint.limit_fields:
        payload = {name: 32000}
        granted = limit_new_tokens(payload, endpoint, LOWERS)
        assert (payload, granted.tokens) == ({name: 1024}, 1024)
        assert granted.warning == (
            f"{name} 32000 lowered to 1024, the most new tokens of the chat tier"
        )
        payload = {name: 1024}
        assert limit_new_tokens(payload, endpoint, LOWERS).warning is None


def test_of_two_names_the_smaller_limit_counts_and_only_the_larger_is_lowered() -> None:
    payload = {"max_tokens": 10, "max_completion_tokens": 32000}
    granted = limit_new_tokens(payload, GENERATING["/v1/chat/completions"], LOWERS)
    assert payload == {"max_tokens": 10, "max_completion_tokens": 1024}
    assert granted.tokens == 10
    assert granted.warning is not None
    assert granted.warning.startswith("max_completion_tokens 32000 lowered")


def test_fewest_tokens_above_the_limit_are_never_lowered() -> None:
    assert "`min_tokens` is 2000" in refusal({"min_tokens": 2000, "max_tokens": 3000}, LOWERS)


@pytest.mark.parametrize(
    ("tier", "asked", "other_tiers", "named"),
    [
        (Tier.CHAT, 2000, 2048, True),
        (Tier.CHAT, 2048, 2048, True),
        (Tier.CHAT, 2049, 2048, False),
        (Tier.CHAT, 2000, None, False),
        (Tier.REASONING, 2000, 512, False),
        # Which tier gives more is a matter of their settings.
        (Tier.REASONING, 2000, 4096, True),
    ],
)
def test_the_other_tier_is_named_only_where_it_would_take_the_limit(
    tier: Tier, asked: int, other_tiers: int | None, *, named: bool
) -> None:
    limit = TierLimit(tier, 1024, other_tiers=other_tiers)
    message = refusal({"max_tokens": asked}, limit)
    assert ("POST /api/" in message) == named
    assert (f"POST /api/{tier.other}" in message) == named
    assert "1024 new tokens" in message


@pytest.mark.parametrize(
    ("thinking", "tokens", "kept"),
    [
        ({"type": "enabled", "budget_tokens": 16000}, 2048, ("enabled", 2047)),
        ({"type": "enabled", "budget_tokens": 1500}, 2048, ("enabled", 1500)),
        # Anthropic's schema has no smaller budget than 1024.
        ({"type": "enabled", "budget_tokens": 16000}, 1024, ("adaptive", None)),
        ({"type": "disabled"}, 1024, ("disabled", None)),
    ],
)
def test_a_thought_of_anthropics_stays_below_a_lowered_limit(
    thinking: dict[str, Any], tokens: int, kept: tuple[str, int | None]
) -> None:
    payload = {"max_tokens": 32000, "thinking": thinking}
    limit = TierLimit(Tier.REASONING, tokens, lowers=True)
    granted = limit_new_tokens(payload, MESSAGES, limit)
    keep_budget_below(payload, MESSAGES, granted)
    assert (payload["thinking"]["type"], payload["thinking"].get("budget_tokens")) == kept


def test_a_budget_that_is_above_the_clients_own_limit_is_left_for_the_schema_to_refuse() -> None:
    payload = {"max_tokens": 500, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    keep_budget_below(payload, MESSAGES, limit_new_tokens(payload, MESSAGES, LOWERS))
    assert payload["thinking"] == {"type": "enabled", "budget_tokens": 1024}


# --- by surface


@pytest.mark.parametrize("path", [*BODIES, "/chat/completions", "//v1//messages"])
def test_below_v1_a_limit_above_the_tiers_is_lowered(path: str) -> None:
    engine = FakeEngine(answers(DONE))
    body = BODIES.get(path, {"messages": []})
    field = "max_output_tokens" if "responses" in path else "max_tokens"
    made = run_virtual(call(an_edge(engine), path, {**body, field: 32000}))
    assert (made.status, engine.asked[0][field]) == (200, 1024)
    assert f"{field} 32000 lowered to 1024" in made.headers["x-tierserve-warning"]


@pytest.mark.parametrize("path", ["", "/"])
def test_the_tiers_own_route_refuses_it(path: str) -> None:
    engine = FakeEngine(answers(DONE))
    made = run_virtual(call(an_edge(engine), path, {"prompt": "hi", "max_tokens": 32000}))
    assert (made.status, made.error["param"], engine.asked) == (400, "max_tokens", [])


@pytest.mark.parametrize("path", ["", "/v1/chat/completions"])
@pytest.mark.parametrize(("when_above", "status"), [("refuse", 400), ("lower", 200)])
def test_the_setting_holds_on_every_route(path: str, when_above: Any, status: int) -> None:
    limits = LimitsConfig(when_above=when_above)
    settings = some_settings().model_copy(update={"limits": limits})
    edge = an_edge(FakeEngine(answers(DONE)), settings=settings)
    assert run_virtual(call(edge, path, {"prompt": "hi", "max_tokens": 32000})).status == status


@virtual
async def test_an_error_names_the_limit_that_the_other_tier_has_reported() -> None:
    edge = an_edge(FakeEngine(answers(DONE)))
    edge.reader.other_tiers_limit = 4096
    made = await call(edge, "", {"prompt": "hi", "max_tokens": 4000})
    assert "The reasoning tier gives up to 4096 (POST /api/reasoning" in made.error["message"]
