"""Conversations whose prompts tests/engine/golden/ keeps, each with the reason for keeping it."""

from dataclasses import dataclass, field
from typing import Any

from serve_app.core.reasoning.prompt_rules import MATH_DIRECTIVE, NO_RULES, R1_RULES, PromptRules

Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    reason: str
    messages: Messages
    rules: PromptRules = NO_RULES
    directive: str | None = None
    tools: list[dict[str, Any]] | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def said(text: str | None, *calls: tuple[str, Any]) -> dict[str, Any]:
    """What the assistant said, with calls as (name, arguments)."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {"id": f"call_{at}", "type": "function", "function": {"name": n, "arguments": a}}
            for at, (n, a) in enumerate(calls)
        ]
    return message


def result(text: str, call: int = 0) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{call}", "content": text}


# As vLLM hands tools over: what the request leaves out is null.
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Today's weather in a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "description": None, "parameters": None},
}
QUESTION = user("How warm is it in Malmö?")

CASES = [
    Case(
        "single_turn",
        "The plainest prompt: one BOS, one question, and the thought opened for the model.",
        [user("What is 7 times 8?")],
    ),
    Case(
        "thought_in_history",
        "The makers take earlier thoughts out of the history; they only fill the context.",
        [user("Hi"), said("<think>\nA greeting.\n</think>\n\nHello!"), user("And now?")],
    ),
    Case(
        "thought_in_history_shaped",
        "With the rules on the blank lines behind the thought go too, and so does `reasoning`.",
        [
            user("Hi"),
            {**said("<think>\nA greeting.\n</think>\n\nHello!"), "reasoning": "A greeting."},
            user("And now?"),
        ],
        rules=R1_RULES,
    ),
    Case(
        "system_kept",
        "Without folding system text stands where DeepSeek's template puts it.",
        [system("Answer in Swedish."), user("Hi")],
    ),
    Case(
        "system_folded",
        "The distills want no system prompt: all of it goes in front of the first question.",
        [
            system("Answer in Swedish."),
            user("Hi"),
            said("Hej!"),
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            user("And now?"),
        ],
        rules=R1_RULES,
    ),
    Case(
        "tools_offered",
        "Tools stand in the first user turn, one a line, in Qwen2.5's words, without nulls.",
        [QUESTION],
        tools=[WEATHER, CLOCK],
    ),
    Case(
        "tools_beside_system",
        "Tools do not move system text from its place.",
        [system("Answer in Swedish."), QUESTION],
        tools=[WEATHER],
    ),
    Case(
        "call_and_result",
        "A single call is closed, the result is a user turn, and the model is asked to go on. "
        "Content is null, as OpenAI clients send it.",
        [QUESTION, said(None, ("weather", {"place": "Malmö"})), result('{"celsius": 21}')],
        tools=[WEATHER],
    ),
    Case(
        "call_with_empty_content",
        'Content "", which vLLM makes of null, keeps the call.',
        [QUESTION, said("", ("weather", {"place": "Malmö"})), result('{"celsius": 21}')],
        tools=[WEATHER],
    ),
    Case(
        "call_with_thought_and_words",
        "Of a call's message the thought goes and the words stay, on a line of their own.",
        [
            QUESTION,
            said("<think>\nLook.\n</think>\n\nI look.\n", ("weather", {"place": "Malmö"})),
            result("21"),
        ],
        tools=[WEATHER],
    ),
    Case(
        "parallel_calls",
        "Each call is closed on lines of its own; their results share one user turn.",
        [
            QUESTION,
            said(None, ("weather", {"place": "Malmö"}), ("clock", {})),
            result("21", 0),
            result("12:00", 1),
            said("It is 21 degrees at noon."),
            user("Thanks!"),
        ],
        tools=[WEATHER, CLOCK],
    ),
    Case(
        "arguments_as_string",
        "Arguments that are JSON already are not encoded a second time; empty ones are an object.",
        [
            QUESTION,
            said(None, ("weather", '{"place": "Malmö"}'), ("clock", ""), ("clock", None)),
        ],
        tools=[WEATHER, CLOCK],
    ),
    Case(
        "calls_without_user",
        "A history cut in front of its question still offers the tools.",
        [said(None, ("clock", {})), result("12:00")],
        tools=[CLOCK],
    ),
    Case(
        "thinking_off",
        "`enable_thinking: false` (vLLM sets it for reasoning_effort none) closes the thought.",
        [user("Hi")],
        options={"enable_thinking": False},
    ),
    Case(
        "math_directive",
        "The model card's directive ends the last question, not the first.",
        [user("What is 2+2?"), said("4"), user("And 3+3?")],
        rules=R1_RULES,
        directive=MATH_DIRECTIVE,
    ),
    Case(
        "text_parts",
        "Parts are joined by line ends, as vLLM joins them for a template that takes strings.",
        [{"role": "user", "content": [{"type": "text", "text": t} for t in ("One", "Two")]}],
    ),
    Case(
        "continued",
        "A message that the model continues ends open, without the end of sentence.",
        [user("Hi"), said("Hello, I")],
        options={"add_generation_prompt": False, "continue_final_message": True},
    ),
    Case(
        "continued_after_thought",
        "The thought of a message that is continued is no history: it stays.",
        [user("Hi"), said("<think>\nA greeting.\n</think>\n\nHello, I")],
        options={"add_generation_prompt": False, "continue_final_message": True},
    ),
]
