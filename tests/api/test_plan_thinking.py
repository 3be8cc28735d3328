"""How much a request may think, by what it says in each endpoint's own words."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.routes import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.api.token_budget import plan_thinking, refuse_budget, unheeded
from serve_app.config.answers import ThinkingConfig
from serve_app.core.reasoning.budget import EFFORT_SHARES, ThinkingPlan, thought_budget
from serve_app.errors import RequestError

TIER = ThinkingConfig()
# 1024 new tokens, a quarter of which is kept.
TIERS_TOKENS = 768


def planned(
    payload: dict[str, Any] | None = None,
    endpoint: Endpoint = CHAT_COMPLETIONS,
    config: ThinkingConfig = TIER,
    *,
    force: bool = True,
) -> tuple[ThinkingPlan | None, str | None]:
    return plan_thinking(payload or {}, endpoint, config, max_new_tokens=1024, force=force)


def plan(*args: Any, **options: Any) -> ThinkingPlan:
    found, warning = planned(*args, **options)
    assert found is not None
    assert warning is None
    return found


def refused(payload: dict[str, Any], endpoint: Endpoint = CHAT_COMPLETIONS) -> RequestError:
    with pytest.raises(RequestError) as caught:
        planned(payload, endpoint)
    assert caught.value.status == 400
    return caught.value


# --- what the tier says


def test_a_request_that_says_nothing_gets_all_that_is_not_kept_for_the_answer() -> None:
    assert plan() == ThinkingPlan(True, 256, 0.25, TIERS_TOKENS, 1.0, True)


def test_a_tier_keeps_a_number_of_tokens_or_bounds_the_thought_itself() -> None:
    assert plan(config=ThinkingConfig(answer_tokens=100)).most_tokens == 924
    assert plan(config=ThinkingConfig(budget_tokens=50)).most_tokens == 50
    assert plan(config=ThinkingConfig(budget_tokens=5000)).most_tokens == TIERS_TOKENS


@pytest.mark.parametrize(
    "config",
    [
        ThinkingConfig(enabled=False),
        ThinkingConfig(budget_tokens=0),
        ThinkingConfig(answer_tokens=1024),
        ThinkingConfig(answer_tokens=5000),
    ],
)
def test_a_tier_without_tokens_for_a_thought_has_none_and_says_so_to_who_wants_one(
    config: ThinkingConfig,
) -> None:
    assert not plan(config=config).enabled
    for wish in {"reasoning_effort": "low"}, {"thinking_token_budget": 9}:
        found, warning = planned(wish, config=config)
        assert found is not None
        assert (found.enabled, warning) == (False, "thinking is off in this tier")
    assert not plan({"reasoning_effort": "none"}, config=config).enabled


def test_the_thought_is_opened_by_force_unless_the_client_writes_the_reply_itself() -> None:
    assert plan(force=True).forced
    assert not plan(force=False).forced
    assert not plan({"add_generation_prompt": False}).forced
    assert plan({"add_generation_prompt": True}).forced


@pytest.mark.parametrize(
    ("payload", "endpoint"), [({}, COMPLETIONS), ({"use_beam_search": True}, CHAT_COMPLETIONS)]
)
def test_a_prompt_of_the_clients_own_and_a_beam_search_have_no_plan(
    payload: dict[str, Any], endpoint: Endpoint
) -> None:
    assert planned(payload, endpoint) == (None, None)


# --- what the request says


@pytest.mark.parametrize(("name", "share"), EFFORT_SHARES.items())
def test_an_effort_is_a_share_in_openais_words(name: str, share: float) -> None:
    assert plan({"reasoning_effort": name}).effort == share
    assert plan({"reasoning": {"effort": name}}, RESPONSES).effort == share


@pytest.mark.parametrize(
    ("payload", "endpoint"),
    [
        ({"reasoning_effort": "none"}, CHAT_COMPLETIONS),
        ({"thinking_token_budget": 0}, CHAT_COMPLETIONS),
        ({"chat_template_kwargs": {"enable_thinking": False}}, CHAT_COMPLETIONS),
        ({"chat_template_kwargs": {"thinking": False}}, CHAT_COMPLETIONS),
        ({"chat_template_kwargs": {"thinking": False}, "reasoning_effort": "high"},
         CHAT_COMPLETIONS),
        ({"reasoning": {"effort": "none"}}, RESPONSES),
        ({"thinking": {"type": "disabled"}}, MESSAGES),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, MESSAGES),
    ],
)  # fmt: skip
def test_each_endpoint_has_words_for_no_thought(
    payload: dict[str, Any], endpoint: Endpoint
) -> None:
    found = plan(payload, endpoint)
    assert thought_budget(found, max_tokens=1024, closing_tokens=5).tokens is None


def test_a_budget_is_a_number_of_tokens_in_vllms_words_and_in_anthropics() -> None:
    assert plan({"thinking_token_budget": 50}).most_tokens == 50
    enabled = {"thinking": {"type": "enabled", "budget_tokens": 50}}
    assert plan(enabled, MESSAGES).most_tokens == 50


def test_a_budget_and_an_effort_both_hold() -> None:
    found = plan({"thinking_token_budget": 50, "reasoning_effort": "low"})
    assert (found.most_tokens, found.effort) == (50, 0.25)


@pytest.mark.parametrize("unlimited", [None, -1])
def test_vllms_word_for_no_bound_leaves_the_tiers(unlimited: int | None) -> None:
    assert plan({"thinking_token_budget": unlimited}) == plan()


def test_a_budget_above_the_tiers_is_cut_to_it_and_the_client_is_told() -> None:
    found, warning = planned({"thinking_token_budget": TIERS_TOKENS + 1})
    assert found is not None
    assert found.most_tokens == TIERS_TOKENS
    assert warning == "a thinking budget of 769 is above the tier's 768 tokens"
    assert planned({"thinking_token_budget": TIERS_TOKENS})[1] is None


@pytest.mark.parametrize("value", ["50", 5.0, 1.5, True, False, -2, [], {}])
def test_a_budget_that_is_no_number_of_tokens_is_refused(value: object) -> None:
    error = refused({"thinking_token_budget": value})
    assert error.param == "thinking_token_budget"
    error = refused({"thinking": {"budget_tokens": value}}, MESSAGES)
    assert error.param == "thinking.budget_tokens"


@pytest.mark.parametrize("value", ["", "High", "most", 1, True, ["low"]])
def test_an_effort_that_there_is_not_is_refused_with_those_that_there_are(value: object) -> None:
    error = refused({"reasoning_effort": value})
    assert error.param == "reasoning_effort"
    assert "none, minimal, low, medium, high" in error.message
    assert refused({"reasoning": {"effort": value}}, RESPONSES).param == "reasoning.effort"


@pytest.mark.parametrize("value", ["x", 5, [], None])
def test_what_is_no_object_is_left_to_the_engines_schema(value: object) -> None:
    assert plan({"chat_template_kwargs": value}) == plan()
    assert plan({"reasoning": value}, RESPONSES) == plan()
    assert plan({"thinking": value}, MESSAGES) == plan()


def test_a_model_that_does_not_think_takes_no_budget() -> None:
    refuse_budget({}, "chat")
    refuse_budget({"thinking_token_budget": None}, "chat")
    with pytest.raises(RequestError) as caught:
        refuse_budget({"thinking_token_budget": 5}, "chat")
    assert caught.value.param == "thinking_token_budget"


@given(
    st.integers(1, 1024),
    st.none() | st.integers(0, 2000),
    st.none() | st.sampled_from(sorted(EFFORT_SHARES)),
    st.none() | st.integers(1, 1500),
    st.none() | st.integers(0, 1500),
)
def test_no_request_thinks_more_than_its_tier_allows(
    limit: int, asked: int | None, effort: str | None, kept: int | None, bound: int | None
) -> None:
    config = ThinkingConfig(answer_tokens=kept, budget_tokens=bound)
    wish = {"thinking_token_budget": asked, "reasoning_effort": effort}
    found, _ = planned(wish, config=config)
    assert found is not None
    tokens = thought_budget(found, max_tokens=limit, closing_tokens=5).tokens or 0
    assert bound is None or tokens <= bound
    assert asked is None or tokens <= asked
    assert tokens < limit


# --- Anthropic's effort, and answers that are continued


@pytest.mark.parametrize(("effort", "share"), EFFORT_SHARES.items())
def test_anthropics_effort_is_the_same_share(effort: str, share: float) -> None:
    assert plan({"output_config": {"effort": effort}}, MESSAGES).effort == share


def test_anthropics_effort_may_be_none_and_must_be_one() -> None:
    assert not plan({"output_config": {"effort": "none"}}, MESSAGES).enabled
    assert refused({"output_config": {"effort": "huge"}}, MESSAGES).param == "output_config.effort"


@pytest.mark.parametrize("endpoint", [CHAT_COMPLETIONS, RESPONSES, MESSAGES], ids=lambda e: e.name)
def test_a_templates_switch_is_heeded_at_every_route(endpoint: Endpoint) -> None:
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    assert not plan(off, endpoint).enabled


def test_an_answer_that_is_continued_opens_no_thought() -> None:
    begun = {"messages": [{"role": "assistant", "content": "Tom has"}]}
    assert not plan(begun, MESSAGES).forced
    assert plan(begun).forced
    assert not plan({**begun, "continue_final_message": True}).forced
    _, warning = planned({**begun, "thinking": {"type": "adaptive"}}, MESSAGES)
    assert warning == "an answer that is continued gets no thought of its own"


def test_a_model_that_does_not_think_says_so_to_who_asks_for_it() -> None:
    told = "the model of this tier does not think"
    assert unheeded({"reasoning_effort": "high"}, CHAT_COMPLETIONS) == told
    assert unheeded({"thinking": {"type": "adaptive"}}, MESSAGES) == told
    assert unheeded({"reasoning_effort": "none"}, CHAT_COMPLETIONS) is None
    assert unheeded({}, RESPONSES) is None
