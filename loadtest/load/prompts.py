"""Prompts of about a given length: words that most vocabularies have as one token each."""

import random
import uuid

COMMON = (
    "the of and to in is it you that he was for on are with as his they be at one have this from "
    "or had by hot but some what there we can out other were all your when up use word how said "
    "an each she which do their time if will way about many then them would write like so these "
    "her long make thing see him two has look more day could go come did my sound no most number "
    "who over know water than call first people may down side been now find any new work part "
    "take get place made live where after back little only round man year came show every good me "
    "give our under name very through just form much great think say help low line before turn"
)
TEXT_WORDS = 1 << 15


class PromptWriter:
    """Prompts are cuts from one long text, since drawing each word would cost as much as sending.

    A prompt begins with its own number, and with the run's mark if prompts are to be fresh: then
    neither a prefix cache nor an answer cache has seen it. The number and a server's chat template
    take some tokens of their own, so that lengths are approximate; the usage has the real ones.
    """

    def __init__(self, seed: int, *, fresh: bool) -> None:
        rng = random.Random(seed)
        words = rng.choices(COMMON.split(), k=TEXT_WORDS)
        self._text = " ".join(words)
        self._starts = [0]
        for word in words:
            self._starts.append(self._starts[-1] + len(word) + 1)
        self._mark = uuid.uuid4().hex[:6] if fresh else f"{seed}"

    def write(self, number: int, tokens: int) -> str:
        lead = f"{self._mark} {number}: "
        count = max(1, tokens - len(lead) // 2)
        begin = (number * 7919) % TEXT_WORDS
        text = ""
        while count > TEXT_WORDS - begin:
            text += self._text[self._starts[begin] :] + " "
            count, begin = count - (TEXT_WORDS - begin), 0
        return lead + text + self._text[self._starts[begin] : self._starts[begin + count] - 1]
