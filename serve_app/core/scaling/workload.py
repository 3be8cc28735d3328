"""What a replica learns of its requests: how long they are, and how many arrive."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

LENGTHS_KEPT = 256
NO_LIMIT = 1 << 30
# The first answers to end are the shortest, so until many have ended what was expected counts as
# so many of them.
EXPECTED_COUNTS_AS = 32
LONGEST_COUNTS_AS = 4.0
# The slow mean shows the level, the quick one a step.
SLOW_S = 40.0
QUICK_S = 6.0
ANSWERS_S = 60.0


@dataclass(frozen=True, slots=True)
class LearntLengths:
    """Lengths of the requests that ended last, in tokens, and the expected ones, which weigh the
    less the more have ended.

    A length that its limit has cut counts as it is: for others with that limit it is right.
    """

    expected_prompt_tokens: float
    expected_new_tokens: float
    prompts: tuple[int, ...] = ()
    answers: tuple[int, ...] = ()

    @property
    def prompt_tokens(self) -> float:
        """Mean length of a prompt."""
        return self._mean(self.expected_prompt_tokens, self.prompts)

    def new_tokens(self, limit: int) -> float:
        """Mean length of an answer that may have `limit` tokens."""
        cut = [length if length < limit else limit for length in self.answers]
        return self._mean(min(self.expected_new_tokens, limit), cut)

    @property
    def variation(self) -> float:
        """Squared coefficient of variation of a prompt's length, 1 until many are known."""
        if len(self.prompts) < EXPECTED_COUNTS_AS:
            return 1.0
        mean = sum(self.prompts) / len(self.prompts)
        if mean <= 0:
            return 1.0
        squares = sum((length - mean) ** 2 for length in self.prompts) / len(self.prompts)
        return squares / mean**2

    @property
    def memoryless(self) -> float:
        """How little a running answer's age says of when it ends, from 0 (all are of one length)
        to 1 (exponential lengths, or nothing known), as far as the answers are known.

        From their squared coefficient of variation `v`: while arrivals change by the part `g` in
        the time of a token, `AnswerRate` has `mean - g * mean**2 * (1 + v) / 2` tokens made and
        `mean - g * mean**2 * (1 + v)` of those ended for each `1 - g * mean` that end. In both
        together with the weights `2v / (1 + v)` and `(1 - v) / (1 + v)` the mean is right."""
        known = len(self.answers) / LENGTHS_KEPT
        mean = sum(self.answers) / max(len(self.answers), 1)
        if mean <= 0:
            return 1.0
        squares = sum((length - mean) ** 2 for length in self.answers) / len(self.answers)
        variation = min(1.0, squares / mean**2)
        return 1 - known * (1 - variation) / (1 + variation)

    @staticmethod
    def _mean(expected: float, lengths: Sequence[int]) -> float:
        weight = EXPECTED_COUNTS_AS * (1 - len(lengths) / LENGTHS_KEPT)
        return (weight * expected + sum(lengths)) / (weight + len(lengths))


@dataclass(frozen=True, slots=True)
class LengthFigures:
    """What `LearntLengths` say, with answers of any length: summed up once."""

    prompt_tokens: float
    new_tokens: float
    variation: float
    answers_seen: float
    memoryless: float

    @classmethod
    def of(cls, lengths: LearntLengths) -> "LengthFigures":
        return cls(
            lengths.prompt_tokens,
            lengths.new_tokens(NO_LIMIT),
            lengths.variation,
            float(len(lengths.answers)),
            lengths.memoryless,
        )


def observe_lengths(
    lengths: LearntLengths, *, prompts: Sequence[int], answers: Sequence[int]
) -> LearntLengths:
    """Learn from requests that ended by themselves or at their limit, in order of their ends."""
    return replace(
        lengths,
        prompts=(*lengths.prompts, *prompts)[-LENGTHS_KEPT:],
        answers=(*lengths.answers, *answers)[-LENGTHS_KEPT:],
    )


def bounded_total(
    lengths: Collection[float], expected_length: float, expected_count: float = 0.0
) -> float:
    """Sum of the lengths and of so many expected ones, in which the longest counts for four of the
    others at most: one odd request says nothing of those to come."""
    total = expected_count * expected_length + sum(lengths)
    if not lengths:
        return total
    longest, others = max(lengths), expected_count + len(lengths) - 1
    others_mean = (total - longest) / others if others else expected_length
    return total - longest + min(longest, LONGEST_COUNTS_AS * others_mean)


@dataclass(frozen=True, slots=True)
class Rates:
    """What arrives in a second: requests, and the tokens of their prompts."""

    requests_per_s: float = 0.0
    prompt_tokens_per_s: float = 0.0

    def plus(self, requests: float, prompt_tokens: float, window_s: float) -> "Rates":
        """With one more arrival, in a mean over this window."""
        return Rates(
            self.requests_per_s + requests / window_s,
            self.prompt_tokens_per_s + prompt_tokens / window_s,
        )

    def times(self, factor: float) -> "Rates":
        return Rates(self.requests_per_s * factor, self.prompt_tokens_per_s * factor)


@dataclass(frozen=True, slots=True)
class ArrivalRate:
    """Arrivals as exponentially weighted means read at `read_s`, over `SLOW_S` and over `QUICK_S`.

    They begin at zero and are not scaled up for it: the means of a tier's replicas add up to the
    tier's, in which the older ones hold what came before the newest one joined.
    """

    since_s: float
    read_s: float
    slow: Rates = Rates()
    quick: Rates = Rates()

    def at(self, now_s: float) -> "ArrivalRate":
        """The means as they are by now."""
        passed_s = now_s - self.read_s
        return ArrivalRate(
            self.since_s,
            now_s,
            self.slow.times(math.exp(-passed_s / SLOW_S)),
            self.quick.times(math.exp(-passed_s / QUICK_S)),
        )


def observe_arrival(
    rate: ArrivalRate, *, now_s: float, requests: float, prompt_tokens: float
) -> ArrivalRate:
    """Count what comes in, whatever becomes of it. `requests` is how many typical ones it is."""
    before = rate.at(now_s)
    return ArrivalRate(
        rate.since_s,
        now_s,
        before.slow.plus(requests, prompt_tokens, SLOW_S),
        before.quick.plus(requests, prompt_tokens, QUICK_S),
    )


@dataclass(frozen=True, slots=True)
class AnswerRate:
    """Tokens that were made, answers that ended and how long those were, as exponentially weighted
    sums over `ANSWERS_S`, read at `read_s`. `tokens_total` is the engine's counter then."""

    read_s: float
    tokens_total: float = 0.0
    tokens: float = 0.0
    ended: float = 0.0
    ended_tokens: float = 0.0

    def mean_tokens(self, expected: float, memoryless: float = 1.0) -> float:
        """Mean length of an answer, of those that still run as well: what was made for each that
        ended. For lengths without memory this is the maximum likelihood under censoring; the mean
        of those that ended is too low while load rises, since the short ones end first.

        Lengths that are much alike have memory: as load rises most that run are young, tokens are
        made and few answers end, and as it falls the other way round. As far as they are not
        `memoryless` those that have ended say more."""
        counted = EXPECTED_COUNTS_AS + self.ended
        made = (EXPECTED_COUNTS_AS * expected + self.tokens) / counted
        if memoryless >= 1:
            return made
        ended = (EXPECTED_COUNTS_AS * expected + self.ended_tokens) / counted
        return ended + memoryless * (made - ended)


def observe_answers(
    rate: AnswerRate,
    *,
    now_s: float,
    tokens_total: float,
    ended: float,
    ended_tokens: float = 0.0,
) -> AnswerRate:
    """`ended` answers since the last look, of so many tokens, and the counter of tokens by now."""
    kept = math.exp(-(now_s - rate.read_s) / ANSWERS_S)
    made = max(0.0, tokens_total - rate.tokens_total)
    return AnswerRate(
        now_s,
        tokens_total,
        kept * rate.tokens + made,
        kept * rate.ended + ended,
        kept * rate.ended_tokens + ended_tokens,
    )
