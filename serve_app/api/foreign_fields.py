"""Fields of other servers and of older clients: taken where their meaning is clear.

Whoever turns reasoning off in another server's words would otherwise get it, and pay for it, and
an answer bound to a schema would be plain text. What cannot be taken is refused with what to use.
"""

from collections.abc import Mapping
from typing import Any

from serve_app.api.routes import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES, RESPONSES, Endpoint
from serve_app.api.token_budget import BUDGET, EFFORT
from serve_app.core.reasoning.budget import NO_EFFORT
from serve_app.errors import RequestError, invalid

# vLLM's names before `structured_outputs`, with what they are called in it.
_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_json_object": "json_object",
}
# Refused where they ask for something, with what to use instead.
_REFUSED: Mapping[str, str] = {
    "guided_decoding_backend": "the service chooses it: leave it out",
    "guided_whitespace_pattern": "JSON is written compactly here: leave it out",
    "regex": "use `structured_outputs` with `regex`",
    "ebnf": "use `structured_outputs` with `grammar`",
    "grammar": "use `structured_outputs` with `grammar`",
    "format": "use `response_format`",
    "options": "send its fields beside the others, such as `temperature` and `max_tokens`",
    "web_search_options": "there is no search here: leave it out",
    "audio": "the models here write text only",
}
_TOOLS_INSTEAD: Mapping[Endpoint, str] = {
    CHAT_COMPLETIONS: (
        'use `tools`, [{"type": "function", "function": {"name": ..., "parameters": ...}}], with '
        "`tool_choice`: the answer's `tool_calls` have the call"
    ),
    RESPONSES: 'use `tools`, [{"type": "function", "name": ..., "parameters": ...}]',
    MESSAGES: 'use `tools`, [{"name": ..., "input_schema": ...}], with `tool_choice`',
    COMPLETIONS: "use /v1/chat/completions, with `tools`",
}
# Where a body has none of these there is nothing to take.
FOREIGN_FIELDS = frozenset(
    {
        *_GUIDED,
        *_REFUSED,
        *("best_of", "functions", "function_call", "thinking", "enable_thinking", "reasoning"),
        *("output_config", "thinking_budget", BUDGET, EFFORT),
    }
)
_FORMAT_INSTEAD = "use `output_config.format`"
_THINKING_FORMS = (
    '{"type": "disabled"}, {"type": "enabled", "budget_tokens": 1024} or {"type": "adaptive"}'
)


def take_foreign_fields(payload: dict[str, Any], endpoint: Endpoint) -> dict[str, str]:
    """Write what such fields mean into the endpoint's own, in place. Returns the names under which
    the client wrote them, by the endpoint's own names. Raises RequestError 400 that names the field
    as the client wrote it."""
    taking = _Taking(payload, endpoint)
    taking.guided()
    taking.best_of()
    taking.functions()
    if endpoint is COMPLETIONS:
        taking.refuse_thinking()
    else:
        taking.thinking()
    for name, advice in _REFUSED.items():
        if taking.take(name) not in (None, False, "", [], {}):
            raise _not_taken(name, advice)
    return taking.names


class _Taking:
    def __init__(self, payload: dict[str, Any], endpoint: Endpoint) -> None:
        self.payload, self.endpoint = payload, endpoint
        self.names: dict[str, str] = {}

    def take(self, name: str) -> Any:
        return self.payload.pop(name, None)

    def guided(self) -> None:
        """Into `structured_outputs`."""
        for name, kind in _GUIDED.items():
            value = self.take(name)
            if value is None or (kind == "json_object" and value is False):
                continue
            if self.endpoint is MESSAGES:
                raise _not_taken(name, _FORMAT_INSTEAD)
            own = self.payload.get("structured_outputs") or {}
            kinds = own if isinstance(own, Mapping) else {"": own}
            if any(part is not None for part in kinds.values()):
                others = [self.names.get(f"structured_outputs.{kind}") for kind in kinds]
                other = next((name for name in others if name), "structured_outputs")
                raise invalid(
                    f"Send either `{name}` or `{other}`: an answer has one form.", param=name
                )
            self.payload["structured_outputs"] = {kind: value}
            self.names[f"structured_outputs.{kind}"] = name

    def best_of(self) -> None:
        """As many as are answered: nothing is left out then."""
        best_of, copies = self.take("best_of"), self.payload.get("n")
        if best_of in (None, 1 if copies is None else copies) and best_of is not True:
            return
        raise _not_taken("best_of", "use `n`, and choose among the answers")

    def functions(self) -> None:
        for name in ("functions", "function_call"):
            if self.take(name) not in (None, [], "none", "auto"):
                raise _not_taken(name, _TOOLS_INSTEAD[self.endpoint])

    def refuse_thinking(self) -> None:
        """A prompt without a template has the client's own marks of reasoning, or none."""
        for name in ("thinking", "enable_thinking", "reasoning", EFFORT):
            if self.take(name) is not None:
                raise _not_taken(
                    name, "the prompt of this route is the client's own: use /v1/chat/completions"
                )

    def thinking(self) -> None:
        if self.endpoint is not MESSAGES:
            self._thinking_object()
        if self.endpoint is not RESPONSES:
            self._reasoning_object()
        if self.endpoint is MESSAGES:
            self._no_effort()
        self._switch()
        self._budget("thinking_budget", self.take("thinking_budget"))
        if self.endpoint is not CHAT_COMPLETIONS:
            self._budget(BUDGET, self.take(BUDGET))
            self._effort(EFFORT, self.take(EFFORT))

    def _thinking_object(self) -> None:
        """Anthropic's field; DeepSeek, Z.ai and Doubao have it at OpenAI's routes."""
        thinking = self.take("thinking")
        if isinstance(thinking, bool):
            self._on("thinking", thinking)
        elif isinstance(thinking, Mapping):
            kind, budget = thinking.get("type"), thinking.get("budget_tokens")
            if kind not in ("enabled", "disabled", "adaptive", "auto"):
                raise invalid(
                    f"`thinking` must be {_THINKING_FORMS}.",
                    param="thinking" if kind is None else "thinking.type",
                )
            if kind == "enabled":
                self._budget("thinking.budget_tokens", budget)
            if kind != "auto":
                self._on("thinking", kind != "disabled")
        elif thinking is not None:
            raise invalid(
                f"`thinking` must be {_THINKING_FORMS}.", param="thinking", code="invalid_type"
            )

    def _reasoning_object(self) -> None:
        """The Responses route's field, and OpenRouter's at chat completions."""
        reasoning = self.take("reasoning")
        if reasoning is None:
            return
        if not isinstance(reasoning, Mapping):
            raise invalid(
                '`reasoning` must be an object, such as {"effort": "low"}.',
                param="reasoning",
                code="invalid_type",
            )
        for name in reasoning.keys() - {"effort", "max_tokens", "enabled", "exclude"}:
            if reasoning[name] not in (None, "auto"):
                raise invalid(
                    f"`reasoning.{name[:64]}` is not known here: `reasoning` has `effort`, "
                    "`max_tokens`, `enabled` and `exclude`.",
                    param=f"reasoning.{name[:64]}",
                )
        self._budget("reasoning.max_tokens", reasoning.get("max_tokens"))
        self._effort("reasoning.effort", reasoning.get("effort"))
        if isinstance(enabled := reasoning.get("enabled"), bool):
            self._on("reasoning.enabled", enabled)
        if reasoning.get("exclude") is True:
            if self.endpoint is MESSAGES:
                raise _not_taken("reasoning.exclude", "leave the `thinking` blocks unread")
            self.payload["include_reasoning"] = False

    def _no_effort(self) -> None:
        config = self.payload.get("output_config")
        if isinstance(config, Mapping) and config.get("effort") == NO_EFFORT:
            kept = {name: value for name, value in config.items() if name != "effort"}
            self.payload["output_config"] = kept
            self._effort("output_config.effort", NO_EFFORT)

    def _switch(self) -> None:
        """Qwen's and vLLM's word of a template, beside the template's other variables or at top."""
        switch = self.take("enable_thinking")
        if isinstance(switch, bool):
            self._on("enable_thinking", switch)
        elif switch is not None:
            raise invalid(
                "`enable_thinking` must be true or false.",
                param="enable_thinking",
                code="invalid_type",
            )

    def _on(self, name: str, on: bool) -> None:
        """Off is off, whatever else is said; on is what templates ask of their variable."""
        if not on:
            self._effort(name, NO_EFFORT, wins=True)
            return
        given = self.payload.get("chat_template_kwargs")
        if given is None or isinstance(given, dict):
            given = given or {}
            given.setdefault("enable_thinking", True)
            self.payload["chat_template_kwargs"] = given

    def _effort(self, name: str, effort: Any, *, wins: bool = False) -> None:
        if effort is None:
            return
        if self.endpoint is CHAT_COMPLETIONS:
            self._write(self.payload, EFFORT, effort, EFFORT, name, wins=wins)
            return
        outer = "reasoning" if self.endpoint is RESPONSES else "output_config"
        if effort == NO_EFFORT and self.endpoint is MESSAGES:
            # Anthropic's efforts have none; its `thinking` has.
            self.payload["thinking"] = {"type": "disabled"}
            return
        inner = self.payload.get(outer)
        if inner is not None and not isinstance(inner, Mapping):
            return  # the engine's schema refuses it
        self.payload[outer] = inner = {**(inner or {})}
        self._write(inner, "effort", effort, f"{outer}.effort", name, wins=wins)

    def _budget(self, name: str, tokens: Any) -> None:
        if tokens is None:
            return
        if self.endpoint is CHAT_COMPLETIONS:
            self._write(self.payload, BUDGET, tokens, BUDGET, name)
            return
        instead = "reasoning.effort"
        if self.endpoint is MESSAGES:
            instead = '`thinking`, {"type": "enabled", "budget_tokens": 1024}'
        raise _not_taken(name, f"use {instead}")

    def _write(
        self,
        into: dict[str, Any],
        key: str,
        value: Any,
        own: str,
        name: str,
        *,
        wins: bool = False,
    ) -> None:
        if into.get(key) not in (None, value) and not wins:
            other = self.names.get(own, own)
            if into[key] == NO_EFFORT:
                return
            raise invalid(f"`{name}` and `{other}` differ: send one of them.", param=name)
        into[key] = value
        self.names[own] = name


def _not_taken(name: str, advice: str) -> RequestError:
    return invalid(f"`{name}` is not taken here: {advice}.", param=name)
