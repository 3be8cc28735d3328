"""What of a request model runner V2 keeps in tables and numbers of a fixed size: a request that the
edge lets pass fits, for what does not raises in the engine's process, which ends."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import vllm.v1.worker.cpu.shm  # noqa: F401
from vllm import SamplingParams, envs
from vllm.v1.worker.gpu.sample.bad_words import BadWordsState
from vllm.v1.worker.gpu.sample.logit_bias import LogitBiasState
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcRequestState
from vllm.v1.worker.gpu.sample.logprob import LogprobTokenIdsState
from vllm.v1.worker.gpu.sample.penalties import PenaltiesState
from vllm.v1.worker.gpu.sample.states import SamplingStates
from vllm.v1.worker.gpu.states import RequestState

from serve_app.api.field_rules import MAX_ENTRIES, MAX_TEXTS_CHARS
from serve_app.engine.sequence_seeds import MOST_SEED, keep_room_for_indices
from serve_app.engine.side_by_side import single_params
from serve_app.engine.vllm.engine import BAD_WORDS_TOKENS, BAD_WORDS_VARIABLE

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

VOCABULARY, CONTEXT = 2048, 64
PROMPT, OUTPUT = [3, 4, 4], [5, 5, 6]
CPU = torch.device("cpu")


def requests(output: list[int] = OUTPUT) -> tuple[RequestState, Any]:
    """Slots, of which one has a request with an output that is there, and what processors see."""
    state = RequestState(2, CONTEXT, CONTEXT, 0, VOCABULARY, CPU)
    state.add_request("one", len(PROMPT), [*PROMPT, *output], 0, CONTEXT - len(PROMPT))
    state.apply_staged_writes()
    return state, LogitsProcRequestState.from_request_state(state)


def slot_of(state: RequestState) -> int:
    return state.req_id_to_index["one"]


@pytest.mark.parametrize("seed", [MOST_SEED, MOST_SEED - 1, -(MOST_SEED + 1), 0, 5])
def test_the_seed_of_each_sequence_fits(seed: int) -> None:
    params: Any = SamplingParams(n=4, seed=seed, temperature=1.0)
    asked = params.clone()
    keep_room_for_indices(params)
    states = SamplingStates(2, VOCABULARY)
    for single in single_params(params):
        states.add_request(0, single)
        assert states.seeds.np[0] == single.seed
    if seed == MOST_SEED:
        *_, last = single_params(asked)
        with pytest.raises(OverflowError):
            states.add_request(0, last)


def test_all_bad_words_that_the_edge_lets_pass_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each character four tokens, as a sign of several bytes may have, with and without a blank."""
    words, chars = MAX_ENTRIES["bad_words"], MAX_TEXTS_CHARS["bad_words"]
    word = [7] * (4 * chars // words)
    params: Any = SimpleNamespace(bad_words_token_ids=[word] * (2 * words))
    state, seen = requests()
    none: Any = None
    # An engine that was started in this process has set it, and vLLM keeps what it has read then.
    envs.disable_envs_cache()
    monkeypatch.delenv(BAD_WORDS_VARIABLE, raising=False)
    with pytest.raises(ValueError, match="Too many total bad word tokens"):
        BadWordsState(none, seen).add_request(slot_of(state), params)
    monkeypatch.setenv(BAD_WORDS_VARIABLE, str(BAD_WORDS_TOKENS))
    table = BadWordsState(none, seen)
    assert table.add_request(slot_of(state), params)
    table.apply_staged_writes()
    assert int(table.bad_word_offsets.gpu[slot_of(state), 2 * words]) == 2 * words * len(word)


def test_all_ids_that_the_edge_lets_pass_fit() -> None:
    ids = {name: list(range(most)) for name, most in MAX_ENTRIES.items()}
    params: Any = SamplingParams(
        min_tokens=5,
        stop_token_ids=ids["stop_token_ids"],
        allowed_token_ids=ids["allowed_token_ids"],
        logit_bias=dict.fromkeys(ids["logit_bias"], 1.0),
    )
    params._all_stop_token_ids.update(range(2000, 2004))
    state, seen = requests()
    none: Any = None
    biases = LogitBiasState(none, seen)
    assert biases.add_request(slot_of(state), params)
    biases.apply_staged_writes()
    wanted: Any = SimpleNamespace(logprob_token_ids=ids["logprob_token_ids"])
    LogprobTokenIdsState(2, CPU).add_request(slot_of(state), wanted)


@pytest.mark.parametrize("output", [[], OUTPUT], ids=["begins", "resumed"])
def test_penalties_and_least_tokens_count_an_output_that_is_there(output: list[int]) -> None:
    state, seen = requests(output)
    none: Any = None
    params = SamplingParams(presence_penalty=1.0, min_tokens=4, stop_token_ids=[9])
    penalties, biases = PenaltiesState(none, seen), LogitBiasState(none, seen)
    for each in (penalties, biases):
        each.add_request(slot_of(state), params)
        each.apply_staged_writes()
    counts = penalties.output_bin_counts[slot_of(state)]
    assert {int(at): int(counts[at]) for at in counts.nonzero()} == Counter(output)
    assert int(penalties.prompt_bin_mask[slot_of(state), 0]) == 1 << 3 | 1 << 4
    # Of all its tokens, those that may not be its last ones.
    assert biases.min_lens.np[slot_of(state)] == len(PROMPT) + 4
    assert np.all(biases.stop_token_ids.gpu[slot_of(state), :1].numpy() == 9)
