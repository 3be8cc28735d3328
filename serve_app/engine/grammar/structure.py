"""What binds an answer: JSON, a regular expression or a grammar, in the one form that the sandbox
checks and the engine compiles. JSON is kept compact, and can be closed when tokens run out.

A small model can write white space, one string or one number without end. The grammar keeps it
valid as far as it goes; the same grammar says what may follow, and of that what ends it soonest.
"""

import json
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serve_app.core.structure.schema_limits import (
    Refusal,
    SchemaLimits,
    refusal_of_choices,
    refusal_of_schema,
    refusal_of_text,
)
from serve_app.engine.grammar.closing import CALL_BEGINS, LONGEST_TOKENS, Closed
from serve_app.engine.grammar.compiler import GrammarSpec
from serve_app.engine.grammar.sandbox import GrammarSandbox, StructureRefusedError

if TYPE_CHECKING:
    from serve_app.engine.vllm.types import SamplingParams, StructuredOutputsParams

# Blanks that may stand between two signs of JSON: models write `{"a": 1}`.
MOST_BLANKS = 1
# A thought leaves JSON so many tokens beside those of its shortest form, but no more than this part
# of the limit.
RESERVE_TOKENS, RESERVE_SHARE = 48, 2
# A stream keeps its last tokens back until it is known what becomes of them: so many times the
# longest end that was met, and some more.
KEPT_BACK_ENDS, KEPT_BACK_TOKENS = 2, 48
# What tags put around the schemas that they hold, as vLLM counts it.
TAG_NESTING = 16
CALL_BEGIN, CALL_END = CALL_BEGINS.decode(), "</tool_call>"


@dataclass(frozen=True, slots=True)
class GrammarSyntax:
    """vLLM's own knowledge of grammars, handed in so that this file does not import vLLM."""

    beyond_xgrammar: Callable[[dict[str, Any]], bool]
    is_lark: Callable[[str], bool]
    grammar_of_choices: Callable[[list[str]], str]


@dataclass(frozen=True, slots=True)
class EndTokens:
    """What it takes to end an answer: the shortest there is, and the longest end that was met."""

    shortest: int = 0
    longest: int = 0

    def reserve(self, max_tokens: int) -> int:
        """Tokens of a limit that a thought leaves to the JSON behind it."""
        return min(max_tokens // RESERVE_SHARE, self.shortest + RESERVE_TOKENS)

    @property
    def kept_back(self) -> int:
        """Tokens at the end of a limit that are kept back."""
        return KEPT_BACK_ENDS * max(self.shortest, self.longest) + KEPT_BACK_TOKENS


@dataclass(frozen=True, slots=True)
class StructureBinder:
    """Lets to the engine only what the sandbox has compiled within the limits."""

    sandbox: GrammarSandbox
    syntax: GrammarSyntax
    limits: SchemaLimits

    async def bind(
        self, bound: "StructuredOutputsParams", field: str | None
    ) -> "tuple[StructuredOutputsParams, EndTokens]":
        """vLLM's parameters of a grammar in the form that was checked, and what it takes to end
        it. Raises RequestError: 400 names `field` and the limit, 503 says that too
        many wait to be checked."""
        try:
            checked = self._in_engines_form(bound)
            verdict = await self.sandbox.check(spec_of(checked, self.syntax.is_lark))
        except StructureRefusedError as refused:
            raise refused.as_request_error(field or field_of(bound)) from None
        shortest = LONGEST_TOKENS if verdict.shortest_tokens is None else verdict.shortest_tokens
        return checked, EndTokens(shortest, verdict.closing_tokens)

    async def close(
        self,
        bound: "StructuredOutputsParams",
        answer: Sequence[int],
        *,
        least_kept: int,
        most_tokens: int,
    ) -> Closed | None:
        """How the JSON of `answer` is ended within `most_tokens` in all, of which `least_kept`
        cannot be taken back; None where the grammar does not know the answer, or no end is found
        within the limits."""
        spec = spec_of(bound, self.syntax.is_lark)
        return await self.sandbox.close(
            spec, answer, least_kept=least_kept, most_tokens=most_tokens
        )

    def _in_engines_form(self, bound: "StructuredOutputsParams") -> "StructuredOutputsParams":
        if bound.regex is not None:
            _refuse_where(_refusal_of_text(bound.regex, self.limits))
            return bound
        if bound.grammar is not None:
            _refuse_where(_refusal_of_text(bound.grammar, self.limits))
            return bound
        changed = copy(bound)
        if bound.choice is not None:
            _refuse_where(refusal_of_choices(bound.choice, self.limits))
            changed.choice, changed.grammar = None, self.syntax.grammar_of_choices(bound.choice)
            return changed
        tag = self._tag_of(bound)
        changed.json = changed.json_object = None
        changed.structural_tag = json.dumps(_with_few_blanks(tag))
        return changed

    def _tag_of(self, bound: "StructuredOutputsParams") -> dict[str, Any]:
        """The structural tag that a schema, or the client's own tag, is."""
        if bound.structural_tag is not None:
            tag = _parsed(bound.structural_tag, self.limits)
            deeper = SchemaLimits(
                self.limits.max_bytes,
                self.limits.max_nesting + TAG_NESTING,
                self.limits.max_nodes,
            )
            _refuse_where(refusal_of_schema(tag, deeper))
            if not isinstance(tag, dict):
                raise StructureRefusedError("structure_invalid", "It is no JSON object.")
            return tag
        if bound.json is None and not bound.json_object:
            raise StructureRefusedError(
                "structure_invalid", "`json_object` must be true, or left out."
            )
        schema = {"type": "object"} if bound.json is None else bound.json
        if isinstance(schema, str):
            schema = _parsed(schema, self.limits)
        _refuse_where(refusal_of_schema(schema, self.limits))
        self._refuse_beyond_xgrammar(schema)
        return {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": schema}}

    def _refuse_beyond_xgrammar(self, schema: Any) -> None:
        """The engine has one compiler for all grammars, and would leave out what it cannot bind."""
        try:
            beyond = self.syntax.beyond_xgrammar(schema)
        except (TypeError, ValueError, AttributeError):
            raise StructureRefusedError(
                "structure_invalid", "It is no valid JSON schema."
            ) from None
        if beyond:
            raise StructureRefusedError(
                "structure_unsupported",
                "It has keywords that an answer cannot be bound to here: `multipleOf`, "
                "`uniqueItems`, `contains`, `allOf` of several, `pattern` or `format` with "
                "a length, an unusual `format`, or `patternProperties` or `propertyNames` beside "
                "`properties`.",
            )


def is_json(params: "SamplingParams") -> bool:
    """Whether a grammar binds the generation to JSON."""
    bound = params.structured_outputs
    return bound is not None and bool(
        bound.json is not None or bound.json_object or bound.structural_tag
    )


def spec_of(bound: "StructuredOutputsParams", is_lark: Callable[[str], bool]) -> GrammarSpec:
    """What the engine compiles of parameters in its form."""
    if bound.structural_tag is not None:
        return GrammarSpec("structural_tag", bound.structural_tag)
    if bound.regex is not None:
        return GrammarSpec("regex", bound.regex)
    assert bound.grammar is not None
    return GrammarSpec("lark" if is_lark(bound.grammar) else "ebnf", bound.grammar)


def field_of(bound: "StructuredOutputsParams") -> str:
    """The request's field, as far as it can be seen from what vLLM has made of it."""
    for name in ("regex", "choice", "grammar", "structural_tag"):
        if getattr(bound, name) is not None:
            return f"structured_outputs.{name}"
    return "response_format"


def is_closed_at_limit(params: "SamplingParams") -> bool:
    """Whether what binds the answer is ended where the limit would cut it."""
    return is_json(params) and not params.ignore_eos


def is_unfinished(params: "SamplingParams", answer: str) -> bool:
    """Whether this answer, cut here, is unfinished JSON. Where calls are the model's choice it may
    be plain text."""
    if not is_closed_at_limit(params):
        return False
    if not is_optional(params):
        return True
    return answer.rfind(CALL_BEGIN) > answer.rfind(CALL_END)


def tokens_before_call(answer: Sequence[int], decode: Callable[[Sequence[int]], str]) -> int:
    """Tokens that stand before the call in which an answer ends; all of them where it ends in none.
    Half a call that cannot be closed is nothing that a client can read."""
    text = decode(answer)
    begin, tokens = text.rfind(CALL_BEGIN), len(answer)
    if begin <= text.rfind(CALL_END):
        return tokens
    while tokens and len(decode(answer[:tokens])) > begin:
        tokens -= 1
    return tokens


def _refusal_of_text(text: object, limits: SchemaLimits) -> Refusal | None:
    if not isinstance(text, str):
        return Refusal("structure_invalid", "It must be a text.")
    return refusal_of_text(text, limits)


def _refuse_where(refusal: Refusal | None) -> None:
    if refusal is not None:
        raise StructureRefusedError(refusal.code, refusal.message)


def _parsed(text: str, limits: SchemaLimits) -> Any:
    if len(text) > limits.max_bytes:
        raise StructureRefusedError(
            "structure_too_large", f"It is larger than {limits.max_bytes:,} bytes, the limit."
        )
    try:
        return json.loads(text)
    except RecursionError:
        raise StructureRefusedError(
            "structure_too_deep", f"It nests deeper than {limits.max_nesting} levels, the limit."
        ) from None
    except ValueError:
        raise StructureRefusedError("structure_invalid", "It is no valid JSON.") from None


def _with_few_blanks(form: Any) -> Any:
    """The structural tag with the bound in each JSON that it holds, but not inside a schema."""
    if isinstance(form, list):
        return [_with_few_blanks(part) for part in form]
    if not isinstance(form, dict):
        return form
    if form.get("type") == "json_schema":
        return {**form, "max_whitespace_cnt": MOST_BLANKS}
    return {name: _with_few_blanks(part) for name, part in form.items()}


def may_call(params: "SamplingParams") -> bool:
    """Whether the answer may hold calls in tags."""
    bound = params.structured_outputs
    return bound is not None and CALL_BEGIN in (bound.structural_tag or "")


def is_optional(params: "SamplingParams") -> bool:
    """Whether the answer may be plain text too, as where calls are the model's choice."""
    bound = params.structured_outputs
    if bound is None or not bound.structural_tag:
        return False
    tag = json.loads(bound.structural_tag)
    return "structures" in tag or tag["format"].get("type") == "triggered_tags"
