"""vLLM's command line on each GPU, and the cores of a CPU replica."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.model_family import R1_PARSER
from serve_app.core.placement.engine_args import EngineSpec, cores_of_slice, engine_args
from serve_app.core.placement.hardware import CPU, RTX_4090, T4, Hardware


def words(hardware: Hardware, **changed: Any) -> str:
    defaults: dict[str, Any] = {
        "model": "some/model",
        "served_names": ("chat", "some/model"),
        "max_model_len": 4096,
        "gpu_memory_utilization": 0.9,
    }
    return " ".join(engine_args(EngineSpec(**(defaults | changed)), hardware)) + " "


def test_a_t4_gets_half_and_an_attention_backend_that_it_can_run() -> None:
    line = words(T4)
    assert "--dtype half " in line
    assert "--attention-backend TRITON_ATTN " in line
    assert "--gpu-memory-utilization 0.9 " in line
    assert "--enforce-eager" not in line


def test_a_4090_gets_bfloat16_and_vllms_own_choice_of_backend() -> None:
    line = words(RTX_4090)
    assert "--dtype bfloat16 " in line
    assert "--attention-backend" not in line
    assert "--enforce-eager" not in line


def test_the_cpu_skips_compilation_and_has_no_share_of_a_gpu() -> None:
    line = words(CPU)
    assert "--enforce-eager " in line
    assert "--gpu-memory-utilization" not in line
    assert "--enforce-eager" not in words(CPU, enforce_eager=False)


def test_the_engine_runs_a_few_sequences_more_than_the_gate_has_slots() -> None:
    assert "--max-num-seqs 320 " in words(T4)
    assert "--max-num-seqs 40 " in words(CPU)


def test_a_set_number_format_wins_over_the_gpus() -> None:
    assert "--dtype float32 " in words(T4, dtype="float32")


def test_the_first_served_name_is_the_one_that_answers_carry() -> None:
    assert words(T4).endswith("--served-model-name chat some/model ")


def test_the_engine_is_configured_to_close_an_r1_models_reasoning() -> None:
    line = words(T4, reasoning_parser=R1_PARSER, thinking_transition="\n\nEnough.\n")
    assert f"--reasoning-parser {R1_PARSER} " in line
    assert '"reasoning_end_str": "\\n\\nEnough.\\n</think>"' in line
    assert "--reasoning" not in words(T4)
    # Of another parser only vLLM knows the marks.
    assert "--reasoning-config" not in words(T4, reasoning_parser="qwen3")
    assert "--reasoning-parser qwen3 " in words(T4, reasoning_parser="qwen3")


def test_drafts_are_configured_where_there_are_any() -> None:
    assert "speculative" not in words(T4)
    line = words(T4, speculation="ngram", speculation_tokens=5)
    assert '--speculative-config {"method": "ngram", "num_speculative_tokens": 5, ' in line
    assert "additional-config" not in line
    line = words(T4, speculation="suffix", speculation_measured=True)
    assert '--speculative-config {"method": "suffix", "num_speculative_tokens": 8} ' in line
    assert '--additional-config {"tierserve_speculation": "auto"} ' in line


def test_tools_are_chosen_by_the_model_only_with_a_parser() -> None:
    assert "--tool-call-parser hermes --" in words(T4, tool_call_parser="hermes")
    assert "--enable-auto-tool-choice " in words(T4, tool_call_parser="hermes")
    assert "tool-choice" not in words(T4)


def test_further_arguments_win_and_can_turn_something_off() -> None:
    line = words(
        T4, extra_args={"max-num-seqs": 8, "stream-interval": 4, "enable-prefix-caching": False}
    )
    assert "--max-num-seqs 8 " in line
    assert "--max-num-seqs 320 " not in line
    assert "--stream-interval 4 " in line
    assert "--enable-prefix-caching" not in line
    # vLLM's own default is on, so that leaving the argument out would turn nothing off.
    assert "--no-enable-prefix-caching " in line


def test_a_further_argument_may_be_written_with_underscores() -> None:
    line = words(T4, extra_args={"max_num_seqs": 8})
    assert "--max-num-seqs 8 " in line
    assert line.count("seqs") == 1


# --- cores


@given(st.lists(st.integers(0, 200), min_size=1, unique=True).map(sorted), st.integers(1, 8))
def test_the_slices_part_all_cores_without_overlap(cores: list[int], parts: int) -> None:
    slices = [cores_of_slice(f"{part}/{parts}", cores) for part in range(parts)]
    if len(cores) >= parts:
        assert [core for part in slices for core in part] == cores
        assert max(map(len, slices)) - min(map(len, slices)) <= 1
    else:
        assert slices == [cores] * parts


def test_without_a_slice_all_cores_are_used() -> None:
    assert cores_of_slice(None, [0, 1, 2]) == [0, 1, 2]


@pytest.mark.parametrize("cpu_slice", ["2/2", "3/2", "0/0"])
def test_a_slice_that_does_not_exist_is_refused(cpu_slice: str) -> None:
    with pytest.raises(ValueError, match=cpu_slice):
        cores_of_slice(cpu_slice, [0, 1])
