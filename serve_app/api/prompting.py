"""The prompt rules of a model's family, applied to each endpoint's own form of a conversation."""

from typing import Any

from serve_app.api.conversation import continues_last
from serve_app.api.endpoints import COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.config.answers import PromptingConfig
from serve_app.core.reasoning.prompt_rules import PromptRules, shape_messages


def prompt_rules(config: PromptingConfig, *, r1: bool, thinks: bool) -> PromptRules:
    """The rules of a tier: what its settings leave open, the model's family decides."""
    return PromptRules(
        fold_system=r1 if config.fold_system is None else config.fold_system,
        strip_thoughts=r1 if config.strip_thoughts is None else config.strip_thoughts,
        force_thought=thinks if config.force_thought is None else config.force_thought,
    )


def shape_prompt(
    payload: dict[str, Any], endpoint: Endpoint, rules: PromptRules, directive: str | None
) -> None:
    """Shape the conversation in place. A prompt for the legacy endpoint is the client's own."""
    if endpoint is COMPLETIONS:
        return
    field = "input" if endpoint is RESPONSES else "messages"
    messages = payload.get(field)
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list):
        return
    begun = continues_last(payload, endpoint)
    aside = {MESSAGES: "system", RESPONSES: "instructions"}.get(endpoint)
    # Of another type it is for the engine's schema to refuse, by its own name.
    system = payload.get(aside) if aside else None
    if aside and rules.fold_system and system and isinstance(system, str | list):
        messages = [{"role": "system", "content": payload.pop(aside)}, *messages]
    shaped = shape_messages(messages, rules, directive, continues_last=begun)
    payload[field] = [_in_form(message, endpoint) for message in shaped]


def _in_form(message: Any, endpoint: Endpoint) -> Any:
    """What has been put in front of a list of parts is named as the endpoint names text."""
    content = message.get("content") if isinstance(message, dict) else None
    if endpoint is not RESPONSES or not isinstance(content, list):
        return message
    parts = [
        {**part, "type": "input_text"}
        if isinstance(part, dict) and part.get("type") == "text"
        else part
        for part in content
    ]
    return {**message, "content": parts}
