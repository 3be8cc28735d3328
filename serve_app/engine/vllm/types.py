"""vLLM's types for those who handle its objects and do not import it.

For type checkers only: import it under TYPE_CHECKING. `basedpyright` then names what an upgrade of
vLLM breaks.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput as CompletionOutput
    from vllm.outputs import RequestOutput as RequestOutput
    from vllm.sampling_params import RepetitionDetectionParams as RepetitionDetectionParams
    from vllm.sampling_params import SamplingParams as SamplingParams
    from vllm.sampling_params import StructuredOutputsParams as StructuredOutputsParams
    from vllm.v1.engine.output_processor import RequestState as RequestState

    # What vLLM's handlers give to `generate`: prompt_token_ids, and by the route prompt,
    # cache_salt and more.
    EnginePrompt = dict[str, Any]
