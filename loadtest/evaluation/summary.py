"""From the answers of an evaluation to its figures, as a document and as a page."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loadtest.evaluation.ask import Answer
from loadtest.evaluation.grade import Grader
from loadtest.report import statistics as figures
from loadtest.report.formatting import (
    counts,
    interval,
    markdown_table,
    mib,
    number,
    percent,
    runs,
    seconds,
)
from loadtest.report.results_file import taken_on
from loadtest.report.statistics import Estimate

# Problem and run.
Key = tuple[str, int]
DIGITS = 5
INTERVALS = {
    "over_runs": "95 %, Student's t over the runs' accuracies (mpmath); none for one run",
    "over_problems": "95 %, percentile bootstrap over problems with all their runs (numpy, "
    f"{figures.RESAMPLES_OF_MEANS} resamples, seed {figures.SEED})",
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
            "over_problems": _rounded(figures.bootstrapped_mean(scores)),
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
    """Fraction of each problem's runs that were correct, in the problems' order."""
    return [
        sum((a := answers.get((problem, run))) is not None and a.correct for run in range(runs))
        / runs
        for problem in problems
    ]


def consensus(
    answers: Mapping[Key, Answer], problems: Sequence[str], k: int, votes: Mapping[Key, int | None]
) -> float:
    """Fraction of problems whose most frequent result in the first k runs is correct."""
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
    """Everything but accuracy. Fractions are of answers; None is what no answer reported."""
    given = [a for a in answers if a.answered]

    def part(is_one: Callable[[Answer], bool]) -> float | None:
        return _round(figures.fraction(sum(map(is_one, given)), len(given)))

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
        "thought_cut_share": part(lambda a: a.reasoning_was_truncated),
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


def summary_page(document: Mapping[str, Any]) -> str:
    settings, meta = document["settings"], document["meta"]
    parts = [
        f"# {settings['model']} on {settings['dataset']}",
        _accuracy(document),
        _runs(document),
        _tokens(document["total"], document["server"]),
        f"Asked at {settings['base_url']}, {settings['concurrency']} at a time; "
        f"{_sampling(settings)}. The client ran on {taken_on(meta)}.",
    ]
    if not document["complete"]:
        parts.insert(
            1, "**Not complete: the same command goes on.** What is missing counts as not correct."
        )
    return "\n\n".join(parts) + "\n"


def _accuracy(document: Mapping[str, Any]) -> str:
    accuracy = document["accuracy"]
    return "\n".join(
        [
            f"- pass@1: **{accuracy['pass_at_1']:.1%}** ({document['problems']} problems, "
            f"{runs(document['runs'])})",
            f"- over the runs: {interval(accuracy['over_runs'])} "
            f"({document['intervals']['over_runs']})",
            f"- over the problems: {interval(accuracy['over_problems'])} "
            f"({document['intervals']['over_problems']})",
            f"- cons@{accuracy['k']}: {accuracy['cons_at_k']:.1%}",
        ]
    )


def _runs(document: Mapping[str, Any]) -> str:
    header = (
        *("run", "pass@1", "cut", "empty", "no result", "TTFT p50", "TTFT p95"),
        *("first answer token p50", "tokens/s a stream p50", "tokens/s", "failed requests"),
    )
    columns = [(run["run"], run["accuracy"], run) for run in document["by_run"]]
    columns.append(("all", document["accuracy"]["pass_at_1"], document["total"]))
    return markdown_table(header, [_run(*column) for column in columns])


def _run(name: Any, accuracy: float, of: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(name),
        f"{accuracy:.1%}",
        *(percent(of[key]) for key in ("thought_cut_share", "empty_share", "no_result_share")),
        *(seconds(of[key]) for key in ("ttft_p50_s", "ttft_p95_s", "ttfo_p50_s")),
        number(of["stream_tokens_per_s_p50"], 1),
        number(of["tokens_per_s"], 1) if "tokens_per_s" in of else "",
        counts(of["failed_requests"]),
    )


def _tokens(total: Mapping[str, Any], server: Mapping[str, Any]) -> str:
    rows = [
        (kind, number(total[f"{kind}_tokens"]["total"]), number(total[f"{kind}_tokens"]["mean"], 1))
        for kind in ("prompt", "completion", "reasoning")
    ]
    return "\n".join(
        [
            markdown_table(("tokens", "total", "mean of an answer"), rows),
            "",
            f"Reasoning ended: {counts(total['thought_ends'])}. Asked to wait (429): "
            f"{total['told_to_wait']} times. Load time: {seconds(server['load_s'])}; largest host "
            f"memory seen of the serving process: {mib(server['memory_peak_bytes'])}.",
        ]
    )


def _sampling(settings: Mapping[str, Any]) -> str:
    given = {name: value for name, value in settings["sampling"].items() if value is not None}
    return ", ".join(f"{name} {value}" for name, value in given.items())
