"""Training samples: the template's prompt and what the model is to write after it, as token ids."""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from loadtest.studies.micro_r1.problems import Problem
from loadtest.studies.micro_r1.tokenizer import EOS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DIRECTIVE = "Please reason step by step, and put your final answer within \\boxed{}."
# What the server puts where a thought has used up its budget.
CUT_PHRASE = "\n\nTime is up: I answer with what I have.\n</think>"
THOUGHT_END = "\n</think>\n\n"
NO_THOUGHT = "\n</think>\n\n"
# The server folds system messages into the user's, since the model knows none.
FOLDED = (
    "You are a helpful assistant.\n\n",
    "You are a careful tutor.\n\n",
    "You are a helpful and harmless assistant.\n\n",
    "Answer briefly.\n\n",
    "Be concise and correct.\n\n",
)
DIRECTIVE_SHARE = 0.5
FOLDED_SHARE = 0.1
CUT_SHARE = 0.2
NO_THOUGHT_SHARE = 0.08
# The label of a token without loss, as in torch's cross_entropy.
NO_LOSS = -100
# Ids, and whether the model writes them itself.
Part: TypeAlias = tuple[list[int], bool]
Kind = TypeVar("Kind", bound=Problem)


@dataclass(frozen=True)
class Sample:
    ids: list[int]
    # As long as `ids`; NO_LOSS where the model does not write the token itself.
    labels: list[int]


def dress(rng: random.Random, text: str) -> str:
    """The problem as a user message: bare, with the directive, with a folded system sentence."""
    if rng.random() < DIRECTIVE_SHARE:
        text = f"{text}{rng.choice((' ', chr(10)))}{DIRECTIVE}"
    if rng.random() < FOLDED_SHARE:
        text = rng.choice(FOLDED) + text
    return text


class SampleWriter(Generic[Kind]):
    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self._tokenizer = tokenizer
        self.cut_ids = self.encode([CUT_PHRASE])[0]
        # What the server appends, as ids, to a prompt whose budget leaves no room for a thought.
        self.no_thought_ids = self.encode([NO_THOUGHT])[0]
        # The template's text around a message, so that thousands need no Jinja each.
        self._before, self._after = self.prompt("{message}").split("{message}")

    def encode(self, texts: list[str]) -> list[list[int]]:
        ids: Any = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def prompt(self, message: str) -> str:
        messages = [{"role": "user", "content": message}]
        text: Any = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return text

    def prompts(self, messages: list[str], openings: list[str]) -> list[list[int]]:
        """Each message in the template, and what is encoded with it."""
        pairs = zip(messages, openings, strict=True)
        return self.encode([self._before + m + self._after + opening for m, opening in pairs])

    def write(self, rng: random.Random, problems: list[Kind]) -> list[Sample]:
        kinds = [rng.random() for _ in problems]
        messages = [dress(rng, problem.text) for problem in problems]
        prompts = self.prompts(messages, [_opening(kind) for kind in kinds])
        thoughts = self.encode([problem.thought + THOUGHT_END for problem in problems])
        # The line breaks before an answer are a token of their own, whatever follows.
        [gap] = self.encode(["\n\n"])
        answers = self.encode([problem.answer + EOS for problem in problems])
        samples: list[Sample] = []
        for kind, prompt, thought, answer in zip(kinds, prompts, thoughts, answers, strict=True):
            if kind < NO_THOUGHT_SHARE:
                parts = [(prompt, False), (answer, True)]
                if kind < NO_THOUGHT_SHARE / 2:
                    parts.insert(1, (self.no_thought_ids, False))
            elif kind < NO_THOUGHT_SHARE + CUT_SHARE:
                # Anywhere before the end marker, which is followed by the gap.
                cut = thought[: rng.randint(0, len(thought) - 2)]
                parts = [(prompt, False), (cut, True), (self.cut_ids, False), (gap + answer, True)]
            else:
                parts = [(prompt, False), (thought + answer, True)]
            samples.append(join(parts))
        return samples


def join(parts: list[Part]) -> Sample:
    ids = [token for part, _ in parts for token in part]
    labels = [token if is_own else NO_LOSS for part, is_own in parts for token in part]
    return Sample(ids, labels)


def _opening(kind: float) -> str:
    """A template's empty thought is encoded with the prompt, two line breaks as one token; the
    server's is appended as ids, with the prompt's line break and another as two tokens."""
    return NO_THOUGHT if NO_THOUGHT_SHARE / 2 <= kind < NO_THOUGHT_SHARE else ""
