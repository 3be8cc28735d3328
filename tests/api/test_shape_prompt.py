"""The prompt rules of a model's family, in each endpoint's own form of a conversation."""

from copy import deepcopy
from typing import Any

import pytest

from serve_app.api.conversation import prompt_rules, shape_prompt
from serve_app.api.routes import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.api.rules import RuleBook, prepare
from serve_app.config.answers import PromptingConfig
from serve_app.core.reasoning.prompt_rules import NO_RULES, R1_RULES, PromptRules
from serve_app.core.tiers import Tier
from tests.builders import KNOWN_FIELDS, some_settings

HI = {"role": "user", "content": "hi"}
THOUGHT = {"role": "assistant", "content": "<think>so</think>\n4"}


def shaped(
    payload: dict[str, Any],
    endpoint: Endpoint = CHAT_COMPLETIONS,
    rules: PromptRules = R1_RULES,
    directive: str | None = None,
) -> dict[str, Any]:
    found = deepcopy(payload)
    shape_prompt(found, endpoint, rules, directive)
    return found


# --- which rules


@pytest.mark.parametrize("r1", [False, True])
@pytest.mark.parametrize("thinks", [False, True])
def test_what_the_settings_leave_open_the_models_family_decides(r1: bool, thinks: bool) -> None:
    rules = prompt_rules(PromptingConfig(), r1=r1, thinks=thinks)
    assert rules == PromptRules(fold_system=r1, strip_thoughts=r1, force_thought=thinks)


@pytest.mark.parametrize("on", [False, True])
def test_what_the_settings_say_goes_before_the_family(on: bool) -> None:
    config = PromptingConfig(fold_system=on, strip_thoughts=on, force_thought=on)
    rules = prompt_rules(config, r1=not on, thinks=not on)
    assert rules == PromptRules(fold_system=on, strip_thoughts=on, force_thought=on)


# --- each endpoint


@pytest.mark.parametrize(
    ("endpoint", "payload"),
    [
        (CHAT_COMPLETIONS, {"messages": [{"role": "system", "content": "Be brief."}, HI]}),
        (CHAT_COMPLETIONS, {"messages": [{"role": "developer", "content": "Be brief."}, HI]}),
        (MESSAGES, {"system": "Be brief.", "messages": [HI]}),
        (MESSAGES, {"system": [{"type": "text", "text": "Be brief."}], "messages": [HI]}),
        (RESPONSES, {"instructions": "Be brief.", "input": [HI]}),
        (RESPONSES, {"instructions": "Be brief.", "input": "hi"}),
    ],
)
def test_a_system_text_becomes_the_begin_of_the_first_user_message(
    endpoint: Endpoint, payload: dict[str, Any]
) -> None:
    field = "input" if endpoint is RESPONSES else "messages"
    folded = {"role": "user", "content": "Be brief.\n\nhi"}
    assert shaped(payload, endpoint) == {field: [folded]}


@pytest.mark.parametrize(("endpoint", "aside"), [(MESSAGES, "system"), (RESPONSES, "instructions")])
def test_without_the_rule_a_system_text_stays_where_it_is(endpoint: Endpoint, aside: str) -> None:
    field = "input" if endpoint is RESPONSES else "messages"
    payload = {aside: "Be brief.", field: [HI]}
    assert shaped(payload, endpoint, NO_RULES) == payload


def test_text_in_front_of_parts_is_named_as_the_endpoint_names_text() -> None:
    for endpoint, kind, field, aside in (
        (RESPONSES, "input_text", "input", "instructions"),
        (MESSAGES, "text", "messages", "system"),
    ):
        parts = [{"type": kind, "text": "hi"}]
        payload = {aside: "Be brief.", field: [{"role": "user", "content": parts}]}
        (message,) = shaped(payload, endpoint)[field]
        assert message["content"] == [{"type": kind, "text": "Be brief."}, *parts]


@pytest.mark.parametrize(
    ("endpoint", "field"),
    [(CHAT_COMPLETIONS, "messages"), (MESSAGES, "messages"), (RESPONSES, "input")],
)
def test_thoughts_are_taken_out_of_earlier_answers(endpoint: Endpoint, field: str) -> None:
    payload = {field: [HI, THOUGHT, HI]}
    assert shaped(payload, endpoint)[field] == [HI, {"role": "assistant", "content": "4"}, HI]
    assert shaped(payload, endpoint, NO_RULES) == payload


def test_the_begin_of_an_answer_that_is_to_be_continued_keeps_its_thought() -> None:
    payload = {"messages": [HI, THOUGHT], "continue_final_message": True}
    assert shaped(payload) == payload


def test_a_directive_stands_behind_the_last_message_even_without_rules() -> None:
    for payload, endpoint, field in (
        ({"messages": [HI]}, CHAT_COMPLETIONS, "messages"),
        ({"messages": [HI]}, MESSAGES, "messages"),
        ({"input": "hi"}, RESPONSES, "input"),
    ):
        (message,) = shaped(payload, endpoint, NO_RULES, "Think.")[field]
        assert message == {"role": "user", "content": "hi\nThink."}


@pytest.mark.parametrize("rules", [NO_RULES, R1_RULES])
def test_a_prompt_of_the_legacy_endpoint_is_the_clients_own(rules: PromptRules) -> None:
    payload = {"prompt": "<think>hi", "system": "x", "messages": [THOUGHT]}
    assert shaped(payload, COMPLETIONS, rules, "Think.") == payload


@pytest.mark.parametrize("messages", [None, 5, {}])
def test_what_is_no_conversation_is_left_to_the_engines_schema(messages: object) -> None:
    for payload in ({"messages": messages, "system": "x"}, {"system": "x"}):
        assert shaped(payload, MESSAGES) == payload


# --- with the tier's system prompt


@pytest.mark.parametrize(
    ("endpoint", "field"),
    [(CHAT_COMPLETIONS, "messages"), (MESSAGES, "messages"), (RESPONSES, "input")],
)
def test_the_tiers_system_prompt_is_folded_too(endpoint: Endpoint, field: str) -> None:
    settings = some_settings(system_prompt="Be brief.")
    book = RuleBook(Tier.CHAT, settings, 8, "chat", KNOWN_FIELDS, thinks=True, r1=True)
    payload = prepare({field: [HI]}, endpoint, book).payload
    assert payload[field] == [{"role": "user", "content": "Be brief.\n\nhi"}]
    assert not payload.keys() & {"system", "instructions"}
