"""vLLM's parsing of a client's grammar in the API process, left to the sandbox.

vLLM parses what a client asks for with xgrammar in this process, on the event loop: in its request
schemas, its parsers of tools, and when it validates. The answer guard has it compiled in the
sandbox first, whichever way it came, so that here it is only handed on.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from serve_app.engine.vllm.patches.patch import Patch, replace

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams, StructuredOutputsParams


def refusing_lark(
    as_format: "Callable[[StructuredOutputsParams], Any]",
) -> "Callable[[StructuredOutputsParams], Any]":
    """vLLM's form of a grammar beside tools; one in Lark's syntax would be parsed for it."""
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.structured_output.utils import grammar_is_likely_lark

    def as_format_but_lark(params: "StructuredOutputsParams") -> Any:
        if params.grammar is not None and grammar_is_likely_lark(params.grammar):
            raise VLLMValidationError(
                "A grammar in Lark's syntax does not go with `tools`; give it as EBNF.",
                parameter="structured_outputs.grammar",
            )
        return as_format(params)

    return as_format_but_lark


def _left_to_the_guard(
    _validate: "Callable[[SamplingParams], None]",
) -> "Callable[[SamplingParams], None]":
    def validate_nothing(sampling_params: "SamplingParams") -> None:
        del sampling_params

    return validate_nothing


def _install() -> None:
    from vllm.parser import abstract_parser
    from vllm.v1.structured_output import backend_xgrammar

    replace(abstract_parser, "structured_outputs_to_format", refusing_lark)
    replace(backend_xgrammar, "validate_xgrammar_grammar", _left_to_the_guard)


PATCH = Patch(
    name="grammar_validation",
    versions=">=0.32,<0.33",
    upstream="vllm/v1/structured_output/backend_xgrammar.py, validate_xgrammar_grammar; "
    "vllm/parser/abstract_parser.py, structured_outputs_to_format",
    remove_when="vLLM compiles a client's grammar in a process of its own, within limits of time, "
    "memory and stack",
    apply=_install,
    replaces=(
        "vllm.parser.abstract_parser:structured_outputs_to_format",
        "vllm.v1.structured_output.backend_xgrammar:validate_xgrammar_grammar",
    ),
)
