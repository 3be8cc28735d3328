"""From the answers of an evaluation to its figures, as a document and as a page."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loadtest.evaluation import figures
from loadtest.evaluation.answer import Answer
from loadtest.evaluation.grade import Grader
from loadtest.evaluation.run_dir import Key
from loadtest.stats import Estimate

DIGITS = 5
INTERVALS = {
    "over_runs": "95 %, Student's t over the runs' accuracies (mpmath); none for one run",
    "over_problems": "95 %, percentile bootstrap over problems with all their runs (numpy, "
    f"{figures.RESAMPLES} resamples, seed {figures.SEED})",
}


def summarise(
    answers: Mapping[Key, Answer],
    problems: Sequence[str],
    runs: int,
    votes: Mapping[Key, int | None],
    k: int,
) -> dict[str, Any]:
    """`votes`: the class of equal results of each answer, by problem. A failed request counts as
    not correct, and is counted by status beside."""
    all_answers = list(answers.values())
    by_run = [[a for (_, run), a in answers.items() if run == number] for number in range(runs)]
    scores = problem_scores(answers, problems, runs)
    accuracies = [sum(a.correct for a in run) / len(problems) for run in by_run]
    return {
        "problems": len(problems),
        "runs": runs,
        "complete": len(answers) == len(problems) * runs,
        "accuracy": {
            "pass_at_1": round(sum(scores) / len(scores), DIGITS),
            "over_runs": _rounded(figures.mean_of_runs(accuracies)),
            "over_problems": _rounded(figures.over_problems(scores)),
            "cons_at_k": round(consensus(answers, problems, k, votes), DIGITS),
            "k": k,
        },
        "intervals": INTERVALS,
        "total": {**describe(all_answers), **throughput(all_answers)},
        "by_run": [
            {"run": number, "accuracy": round(accuracy, DIGITS), **describe(run)}
            for number, (accuracy, run) in enumerate(zip(accuracies, by_run, strict=True))
        ],
    }


def problem_scores(
    answers: Mapping[Key, Answer], problems: Sequence[str], runs: int
) -> list[float]:
    """Share of each problem's runs that were correct, in the problems' order."""
    return [
        sum((a := answers.get((problem, run))) is not None and a.correct for run in range(runs))
        / runs
        for problem in problems
    ]


def consensus(
    answers: Mapping[Key, Answer], problems: Sequence[str], k: int, votes: Mapping[Key, int | None]
) -> float:
    """Share of problems whose most frequent result in the first k runs is correct."""
    right = 0
    for problem in problems:
        winner = figures.majority(votes.get((problem, run)) for run in range(k))
        right += winner is not None and answers[problem, winner].correct
    return right / len(problems)


async def take_votes(
    answers: Mapping[Key, Answer], problems: Sequence[str], k: int, grader: Grader
) -> dict[Key, int | None]:
    """For each answer with a result the first run whose result equals it, says math-verify."""
    votes: dict[Key, int | None] = {}
    for problem in problems:
        found = [
            a for run in range(k) if (a := answers.get((problem, run))) and a.extracted is not None
        ]
        if len({a.extracted for a in found}) > 1:
            places = await grader.group([a.text for a in found])
        else:
            places = [0] * len(found)
        for answer, place in zip(found, places, strict=True):
            votes[problem, answer.run] = None if place is None else found[place].run
    return votes


def describe(answers: Sequence[Answer]) -> dict[str, Any]:
    """Everything but accuracy. Shares are of answers; None is what no answer told."""
    given = [a for a in answers if a.answered]

    def part(is_one: Callable[[Answer], bool]) -> float | None:
        return _round(figures.share(sum(map(is_one, given)), len(given)))

    def tokens(field: str) -> dict[str, float | None]:
        values = [getattr(a, field) for a in given]
        return {"total": figures.total(values), "mean": _round(figures.mean(values), 1)}

    return {
        "answers": len(given),
        "failed_requests": dict(sorted(Counter(a.error for a in answers if a.error).items())),
        "told_to_wait": sum(a.told_to_wait for a in answers),
        "prompt_tokens": tokens("prompt_tokens"),
        "completion_tokens": tokens("completion_tokens"),
        "reasoning_tokens": tokens("reasoning_tokens"),
        "thought_ends": dict(sorted(Counter(a.thought_end or "not told" for a in given).items())),
        "thought_cut_share": part(lambda a: a.thought_was_cut),
        "empty_answers": sum(a.empty for a in given),
        "empty_share": part(lambda a: a.empty),
        "no_result_share": part(lambda a: a.extracted is None),
        "grader_gave_up": sum(a.grade_note is not None for a in given),
        "ttft_p50_s": _round(figures.quantile([a.ttft_s for a in given], 50)),
        "ttft_p95_s": _round(figures.quantile([a.ttft_s for a in given], 95)),
        "ttfo_p50_s": _round(figures.quantile([a.ttfo_s for a in given], 50)),
        "stream_tokens_per_s_p50": _round(
            figures.quantile([stream_tokens_per_s(a) for a in given], 50), 2
        ),
    }


def throughput(answers: Sequence[Answer]) -> dict[str, float | None]:
    """Of all runs together: one begins while the last answers of the one before still come."""
    given = [a for a in answers if a.answered]
    busy_s = figures.busy_s((a.started_s, a.ended_s) for a in given)
    tokens = figures.total(a.completion_tokens for a in given)
    return {
        "tokens_per_s": _round(tokens / busy_s if tokens is not None and busy_s else None, 2),
        "busy_s": round(busy_s, 2),
    }


def stream_tokens_per_s(answer: Answer) -> float | None:
    """From the first token to the last; None for fewer than two."""
    if answer.ttft_s is None or answer.e2e_s is None or (answer.completion_tokens or 0) < 2:
        return None
    span_s = answer.e2e_s - answer.ttft_s
    return ((answer.completion_tokens or 0) - 1) / span_s if span_s > 0 else None


def _rounded(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else estimate.rounded(DIGITS)


def _round(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)
