"""Training samples: the whole thought, one that is cut, a trial answer, and none at all."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtest.studies.micro_r1.samples import (
    NO_THOUGHT,
    THOUGHT_END,
    Part,
    Sample,
    SampleWriter,
    dress,
    join,
)
from loadtest.studies.micro_r1.tokenizer import BOS, EOS
from loadtest.studies.micro_r2.problems import GradedProblem, draw_equations

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# What the server begins a trial answer with, behind a thought that it has closed.
TRIAL_OPENER = " The answer is \\boxed{"
DIRECT_SHARE = 0.25
CUT_SHARE = 0.12
TRIAL_SHARE = 0.1
_EQUATIONS_OF_SHEET = 22
_STUB_TOKENS = 14
# So many of the cuts lie before the first result, and not among the checks.
_EARLY_CUTS = 0.75


@dataclass(frozen=True)
class Mix:
    # Sheets of bare equations, so many for each problem.
    sheet_share: float
    # So many of the whole thoughts end where the first check has begun, wherever they would have
    # led: what follows is mostly copied, and learned from the others.
    stub_share: float


class GradedSampleWriter(SampleWriter[GradedProblem]):
    def __init__(self, tokenizer: "PreTrainedTokenizerFast", mix: Mix) -> None:
        super().__init__(tokenizer)
        self._mix = mix

    def write(self, rng: random.Random, problems: list[GradedProblem]) -> list[Sample]:
        kinds = [rng.random() for _ in problems]
        # The template's own empty thought is encoded with the prompt; the server's comes as ids.
        openings = [NO_THOUGHT if kind < DIRECT_SHARE / 2 else "" for kind in kinds]
        prompts = self.prompts([dress(rng, p.text) for p in problems], openings)
        thoughts = self.encode([problem.thought + THOUGHT_END for problem in problems])
        solving = self.encode([problem.thought[: problem.solved_at] for problem in problems])
        answers = self.encode([problem.answer + EOS for problem in problems])
        [gap, opener] = self.encode(["\n\n", TRIAL_OPENER])
        values = self.encode([f"{problem.result}}}." + EOS for problem in problems])
        samples: list[Sample] = []
        for at, kind in enumerate(kinds):
            parts: list[Part] = [(prompts[at], False)]
            if kind < DIRECT_SHARE:
                if not openings[at]:
                    parts.append((self.no_thought_ids, False))
                parts.append((answers[at], True))
            elif kind < DIRECT_SHARE + CUT_SHARE + TRIAL_SHARE:
                is_early = rng.random() < _EARLY_CUTS
                # Anywhere before the end marker, which is followed by the gap.
                longest = len(solving[at]) if is_early else len(thoughts[at]) - 2
                cut = thoughts[at][: rng.randint(0, longest)]
                parts += [(cut, True), (self.cut_ids, False)]
                if kind < DIRECT_SHARE + CUT_SHARE:
                    parts.append((gap + answers[at], True))
                else:
                    parts += [(opener, False), (values[at], True)]
            elif rng.random() < self._mix.stub_share:
                whole = thoughts[at] + answers[at]
                parts.append((whole[: len(solving[at]) + _STUB_TOKENS], True))
            else:
                parts.append((thoughts[at] + answers[at], True))
            samples.append(join(parts))
        samples += [self._sheet(rng) for _ in range(int(len(problems) * self._mix.sheet_share))]
        rng.shuffle(samples)
        return samples

    def _sheet(self, rng: random.Random) -> Sample:
        """Without loss on what is asked, which nobody can foresee."""
        drawn = [line.partition("=") for line in draw_equations(rng, _EQUATIONS_OF_SHEET)]
        starts = (BOS, *[" "] * (_EQUATIONS_OF_SHEET - 1))
        asked = [f"{start}{left}=" for start, (left, _, _) in zip(starts, drawn, strict=True)]
        parts: list[Part] = []
        results = self.encode([f"{result}." for _, _, result in drawn])
        for question, result in zip(self.encode(asked), results, strict=True):
            parts += [(question, False), (result, True)]
        return join(parts)
