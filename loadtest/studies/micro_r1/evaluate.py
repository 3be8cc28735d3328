"""How many held-out problems the model solves: thinking to the end, cut short, not at all."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadtest.studies.micro_r1.problems import Problem
from loadtest.studies.micro_r1.samples import DIRECTIVE, NO_THOUGHT, SampleWriter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

BUDGETS_TOKENS = (0, 8, 16, 32, 64, 96, 128)
TEMPERATURE = 0.6
TOP_P = 0.95
_BATCH = 125
_BOXED = re.compile(r"\\boxed\{(-?\d+)\}")


@dataclass(frozen=True)
class Outcome:
    accuracy: float
    # Without the end marker.
    mean_thought_tokens: float


class Evaluation:
    def __init__(
        self,
        model: "Qwen2ForCausalLM",
        tokenizer: "PreTrainedTokenizerFast",
        problems: Sequence[Problem],
        *,
        directive: bool = True,
        longest_tokens: int = 320,
    ) -> None:
        self._model: Any = model.eval()
        self._tokenizer = tokenizer
        self._problems = problems
        self._longest_tokens = longest_tokens
        self._writer = SampleWriter[Problem](tokenizer)
        ending = f" {DIRECTIVE}" if directive else ""
        self._prompts = [self._writer.prompt(problem.text + ending) for problem in problems]
        self._end: Any = tokenizer.convert_tokens_to_ids("</think>")

    def full(self, *, sampled_with_seed: int | None = None) -> Outcome:
        """Thinking to the end: greedy, or sampled as generation_config.json says."""
        written = self._generate(self._writer.encode(self._prompts), sampled_with_seed)
        return self._outcome(written)

    def by_budget(self, budgets: Sequence[int]) -> list[Outcome]:
        """Greedy; a thought longer than its budget is cut by the server's phrase."""
        prompts = self._writer.encode(self._prompts)
        written = self._generate(prompts)
        outcomes: list[Outcome] = []
        for budget in budgets:
            results = list(written)
            cut = [at for at, ids in enumerate(written) if self._thought_tokens(ids) > budget]
            starts = [written[at][:budget] + self._writer.cut_ids for at in cut]
            answers = self._generate([prompts[at] + s for at, s in zip(cut, starts, strict=True)])
            for at, start, answer in zip(cut, starts, answers, strict=True):
                results[at] = start + answer
            thoughts = [min(self._thought_tokens(ids), budget) for ids in written]
            outcomes.append(Outcome(self._accuracy(results), sum(thoughts) / len(thoughts)))
        return outcomes

    def without_thought(self) -> float:
        prompts = self._writer.encode([prompt + NO_THOUGHT for prompt in self._prompts])
        return self._accuracy([[self._end, *ids] for ids in self._generate(prompts)])

    def _outcome(self, written: list[list[int]]) -> Outcome:
        thoughts = [self._thought_tokens(ids) for ids in written]
        return Outcome(self._accuracy(written), sum(thoughts) / len(thoughts))

    def _thought_tokens(self, ids: list[int]) -> int:
        return ids.index(self._end) if self._end in ids else len(ids)

    def _accuracy(self, written: list[list[int]]) -> float:
        right = 0
        for ids, problem in zip(written, self._problems, strict=True):
            answer = self._tokenizer.decode(ids[self._thought_tokens(ids) + 1 :])
            right += _BOXED.findall(str(answer)) == [str(problem.result)]
        return right / len(self._problems)

    def _generate(
        self, prompts: list[list[int]], sampled_with_seed: int | None = None
    ) -> list[list[int]]:
        import torch

        if sampled_with_seed is not None:
            torch.manual_seed(sampled_with_seed)
        order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
        written: list[list[int]] = [[] for _ in prompts]
        for begin in range(0, len(order), _BATCH):
            chosen = order[begin : begin + _BATCH]
            batch = [prompts[at] for at in chosen]
            for at, ids in zip(chosen, self._batch(batch, sampled_with_seed), strict=True):
                written[at] = ids
        return written

    def _batch(self, prompts: list[list[int]], sampled_with_seed: int | None) -> list[list[int]]:
        import torch

        longest = max(len(prompt) for prompt in prompts)
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None}
        if sampled_with_seed is not None:
            how = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0}
        with torch.inference_mode():
            output = self._model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=self._longest_tokens,
                eos_token_id=self._tokenizer.eos_token_id,
                pad_token_id=pad,
                **how,
            )
        rows: list[list[int]] = output[:, longest:].tolist()
        eos = self._tokenizer.eos_token_id
        return [row[: row.index(eos)] if eos in row else row for row in rows]
