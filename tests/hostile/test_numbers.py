"""Numbers that no field was made for: beyond 64 bits, below zero, not a number, no integer."""

from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.hostile.attack import CHAT, REASONING, USER, Attack, Target
from tests.hostile.test_fields import ROUTES
from tests.hostile.wire import as_json

# As JSON text, since some of it is none that Python writes.
HUGE = (str(2**63), str(2**64), str(-(2**63) - 1), "1" + "0" * 30, "9" * 5000, "-" + "9" * 400)
FRACTIONS = ("1.5", "1e400", "-1e400", "1e-400", "5e-324", "1.7976931348623157e308", "-0.0")
LITERALS = ("NaN", "Infinity", "-Infinity", "nan", "0x10", "1_000", "+1", "01", ".5", "1.")
OTHER = ("-1", "0", "true", "false", '"5"', '"x"', "null", "[]", "[5]", "{}", '{"a": 5}', '""')
VALUES = (*HUGE, *FRACTIONS, *LITERALS, *OTHER)
INTEGERS = (
    "n",
    "max_tokens",
    "min_tokens",
    "top_k",
    "seed",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "thinking_token_budget",
    "truncate_prompt_tokens",
    "priority",
    "best_of",
    "max_completion_tokens",
    "max_output_tokens",
    "max_tool_calls",
)
FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "length_penalty",
)
SWITCHES = ("stream", "echo", "ignore_eos", "use_beam_search", "skip_special_tokens")
BIG = 2**64
OBJECTS: Sequence[dict[str, object]] = (
    {"repetition_detection": {"max_pattern_size": BIG, "min_pattern_size": 1, "min_count": 2}},
    {"repetition_detection": {"max_pattern_size": 10**9, "min_pattern_size": 1, "min_count": 2}},
    {"repetition_detection": {"max_pattern_size": -1, "min_pattern_size": -BIG, "min_count": 0}},
    {"repetition_detection": {"max_pattern_size": "x", "min_pattern_size": None, "min_count": []}},
    {"vllm_xargs": {"kv_transfer_params": "x"}},
    {"vllm_xargs": {"kv_transfer_params": BIG}},
    {"vllm_xargs": {"tierserve_lean": 1}},
    {"vllm_xargs": {"tierserve_lean": [5, 1]}},
    {"vllm_xargs": {"tierserve_resumed_ids": [1, 2, 3]}},
    {"vllm_xargs": {"a": BIG}},
    {"vllm_xargs": {"a": [BIG, -BIG]}},
    {"vllm_xargs": {"a": None}},
    {"vllm_xargs": {"a": {"b": 1}}},
    {"vllm_xargs": {"": ""}},
    {"vllm_xargs": "x"},
    {"vllm_xargs": [1]},
    {"kv_transfer_params": {"do_remote_prefill": True, "remote_block_ids": [BIG]}},
    {"kv_transfer_params": {"do_remote_decode": True, "remote_host": "127.0.0.1", "port": 9}},
    {"kv_transfer_params": "x"},
    {"kv_transfer_params": BIG},
    {"logit_bias": {"999999999": 1}},
    {"logit_bias": {str(BIG): 1}},
    {"logit_bias": {"-1": 1}},
    {"logit_bias": {"1.5": 1}},
    {"logit_bias": {"5": BIG}},
    {"logit_bias": {"5": None}},
    {"logit_bias": {"5": "x"}},
    {"logit_bias": {"5": 10**400}},
    {"allowed_token_ids": [BIG]},
    {"allowed_token_ids": [-1]},
    {"allowed_token_ids": [10**9]},
    {"allowed_token_ids": [None, "x", 1.5]},
    {"stop_token_ids": [BIG]},
    {"stop_token_ids": [-BIG]},
    {"stop_token_ids": [1.5, None]},
    {"bad_words_token_ids": [[BIG]]},
    {"logprob_token_ids": [BIG]},
    {"logprob_token_ids": [-1, 10**9]},
    {"logprobs": True, "top_logprobs": BIG},
    {"logprobs": -5},
    {"prompt_logprobs": BIG},
    {"stream_options": {"include_usage": BIG}},
    {"stream_options": {"continuous_usage_stats": "x", "include_usage": None}},
    {"chat_template_kwargs": {"thinking_budget": BIG, "enable_thinking": BIG}},
    {"structured_outputs": {"json": {"type": "integer", "maximum": BIG}}},
    {"structured_outputs": {"choice": ["a"], "disable_fallback": BIG}},
    {"min_tokens": 1, "max_tokens": 1, "stop_token_ids": [*range(2000)]},
    {"data_parallel_rank": BIG},
    {"data_parallel_rank": -1},
    {"data_parallel_rank": 5},
    {"request_id": BIG},
    {"cache_salt": BIG},
    {"mm_processor_kwargs": {"max_pixels": BIG}},
    {"media_io_kwargs": {"video": {"num_frames": BIG}}},
    {"ec_transfer_params": {"a": BIG}},
    {"steering_vectors": [BIG]},
    {"thinking": {"type": "enabled", "budget_tokens": BIG}},
    {"reasoning": {"effort": BIG}},
    {"reasoning": {"max_tokens": -BIG}},
    {"text": {"verbosity": BIG}},
    {"created": BIG, "usage": BIG, "prompt": BIG},
)
IDS: Sequence[object] = (
    [BIG],
    [-BIG],
    [-1],
    [10**9],
    [2**31],
    [2**32],
    [1.5],
    [True],
    [None],
    ["a", 5],
    [[BIG]],
    [[5], ["a"]],
    [[[5]]],
    [[5], []],
    BIG,
    {"tokens": [5]},
)


def _texts(path: str) -> Iterator[Attack]:
    base = as_json(ROUTES[path])[:-1]
    fields = {
        **dict.fromkeys(INTEGERS, (*HUGE, *FRACTIONS, *LITERALS[:3], *OTHER)),
        **dict.fromkeys(FLOATS, VALUES),
        **dict.fromkeys(SWITCHES, (*HUGE[:2], *LITERALS[:1], *OTHER)),
    }
    for field, values in fields.items():
        for value in values:
            # The last of two fields of one name is the one that counts.
            more = b"" if field.startswith("max_") or value == "true" else b',"max_tokens":1'
            if path.endswith("responses"):
                more = b""
            body = b'%b,"%b":%b%b}' % (base, field.encode(), value.encode(), more)
            yield Attack(f"{field}: {value[:24]}", path, lambda body=body: body)


def _objects(path: str) -> Iterator[Attack]:
    for change in OBJECTS:
        body = as_json({**ROUTES[path], **change})
        yield Attack(f"{change}"[:80], path, lambda body=body: body)


def _tokens() -> Iterator[Attack]:
    requests: Mapping[str, str] = {
        f"{CHAT}/v1/completions": "prompt",
        f"{REASONING}/v1/completions": "prompt",
        f"{CHAT}/detokenize": "tokens",
        f"{CHAT}/v1/responses": "input",
    }
    for path, field in requests.items():
        for ids in IDS:
            body = as_json({field: ids, "max_tokens": 1})
            yield Attack(f"{field}: {ids} to {path}", path, lambda body=body: body)
    for change in ({"prompt": BIG}, {"add_special_tokens": BIG}, {"return_token_strs": BIG}):
        body = as_json({"prompt": "hi", **change})
        yield Attack(f"{change} to tokenize", f"{CHAT}/tokenize", lambda body=body: body)
    for change in ({"max_tokens": BIG}, {"messages": BIG}, {"system": BIG}, {"tools": [BIG]}):
        path = f"{CHAT}/v1/messages/count_tokens"
        body = as_json({"model": "chat", "messages": USER, **change})
        yield Attack(f"{change} to count_tokens", path, lambda body=body: body)


@pytest.mark.parametrize("path", ROUTES)
def test_no_number_makes_a_server_error(target: Target, path: str) -> None:
    target.bear_all([*_texts(path)])


@pytest.mark.parametrize("path", ROUTES)
def test_no_odd_object_makes_a_server_error(target: Target, path: str) -> None:
    target.bear_all([*_objects(path)])


def test_no_token_id_makes_a_server_error(target: Target) -> None:
    target.bear_all([*_tokens()])


def test_a_schema_with_a_number_beyond_64_bits_is_refused_or_kept(target: Target) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": BIG}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = as_json({"messages": USER, "max_tokens": 16, "response_format": form})
    target.bear(Attack("maximum 2^64 in a schema", CHAT, lambda: body))
