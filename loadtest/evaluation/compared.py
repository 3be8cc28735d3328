"""Two finished evaluations as one table, and the difference of their accuracy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from loadtest.evaluation import figures
from loadtest.evaluation.faults import EvaluationFault
from loadtest.evaluation.run_dir import RunDir
from loadtest.evaluation.summary import DIGITS, problem_scores
from loadtest.evaluation.words import (
    counts,
    interval,
    markdown_table,
    mib,
    number,
    percent,
    points,
    runs,
    seconds,
)

Told = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Compared:
    """`scores`: share of correct runs by problem."""

    label: str
    summary: dict[str, Any]
    scores: dict[str, float]

    @classmethod
    def of(cls, folder: RunDir, label: str) -> Self:
        summary = folder.summary
        if summary is None or not summary["complete"]:
            raise EvaluationFault(f"{folder.path} is not finished: let its command go on.")
        problems = sorted({problem for problem, _ in folder.answers})
        scores = problem_scores(folder.answers, problems, summary["runs"])
        return cls(label, summary, dict(zip(problems, scores, strict=True)))


def document(a: Compared, b: Compared) -> dict[str, Any]:
    settings = [side.summary["settings"] for side in (a, b)]
    if settings[0]["problems_sha256"] != settings[1]["problems_sha256"]:
        raise EvaluationFault("The two evaluations asked different problems.")
    problems = sorted(a.scores)
    difference = figures.paired_difference(
        [a.scores[problem] for problem in problems], [b.scores[problem] for problem in problems]
    )
    keys = ("settings", "accuracy", "total", "server")
    return {
        "title": f"{settings[0]['dataset']}: {len(problems)} problems, "
        + " and ".join(dict.fromkeys(runs(side.summary["runs"]) for side in (a, b))),
        "problems": len(problems),
        **{
            name: {"label": side.label, **{key: side.summary[key] for key in keys}}
            for name, side in (("a", a), ("b", b))
        },
        "accuracy_b_minus_a": difference.rounded(DIGITS),
        "interval": f"95 %, paired percentile bootstrap over problems (numpy, "
        f"{figures.RESAMPLES} resamples, seed {figures.SEED})",
    }


ROWS: tuple[tuple[str, Callable[[Told], str]], ...] = (
    ("load time", lambda side: seconds(side["server"]["load_s"])),
    ("largest host memory seen", lambda side: mib(side["server"]["memory_peak_bytes"])),
    ("TTFT p50", lambda side: seconds(side["total"]["ttft_p50_s"])),
    ("TTFT p95", lambda side: seconds(side["total"]["ttft_p95_s"])),
    ("first answer token p50", lambda side: seconds(side["total"]["ttfo_p50_s"])),
    ("tokens/s a stream p50", lambda side: number(side["total"]["stream_tokens_per_s_p50"], 1)),
    ("tokens/s overall", lambda side: number(side["total"]["tokens_per_s"], 1)),
    ("pass@1", lambda side: percent(side["accuracy"]["pass_at_1"])),
    ("95 % over the problems", lambda side: interval(side["accuracy"]["over_problems"])),
    ("95 % over the runs", lambda side: interval(side["accuracy"]["over_runs"])),
    ("cons@k", lambda side: f"{side['accuracy']['cons_at_k']:.1%} (k {side['accuracy']['k']})"),
    ("tokens of an answer, mean", lambda side: number(side["total"]["completion_tokens"]["mean"])),
    ("of them thought, mean", lambda side: number(side["total"]["reasoning_tokens"]["mean"])),
    ("tokens of all answers", lambda side: number(side["total"]["completion_tokens"]["total"])),
    ("thoughts cut", lambda side: percent(side["total"]["thought_cut_share"])),
    ("empty answers", lambda side: percent(side["total"]["empty_share"])),
    ("no result found", lambda side: percent(side["total"]["no_result_share"])),
    ("failed requests", lambda side: counts(side["total"]["failed_requests"])),
)


def page(told: Told) -> str:
    """`compare.md`."""
    a, b, meta = told["a"], told["b"], told["meta"]
    rows = [(name, cell(a), cell(b)) for name, cell in ROWS]
    return (
        "\n\n".join(
            [
                f"# {told['title']}",
                markdown_table(("", a["label"], b["label"]), rows),
                f"Accuracy, {b['label']} less {a['label']}: "
                f"**{points(told['accuracy_b_minus_a'])}** ({told['interval']}).",
                _settings(a["settings"], b["settings"]),
                "![](compare.png)",
                f"{meta['date'][:10]}, commit {meta['commit']}; the client ran on "
                f"{meta['machine']['cores']} cores of {meta['machine']['cpu']}.",
            ]
        )
        + "\n"
    )


def _settings(a: Told, b: Told) -> str:
    """What was asked of both, or where it differed: models asked differently are not comparable."""
    flat = [{**of, **of["sampling"]} for of in (a, b)]
    named = {"base_url", "model", "sampling", "problems", "problems_sha256"}
    other = [
        f"{name} {flat[0][name]} against {flat[1].get(name)}"
        for name in flat[0]
        if name not in named and flat[0][name] != flat[1].get(name)
    ]
    if other:
        return f"**Asked differently: {'; '.join(other)}.**"
    same = {name: value for name, value in a["sampling"].items() if value is not None}
    words = ", ".join(f"{name} {value}" for name, value in same.items())
    return f"Both were asked {a['concurrency']} at a time with {words}."
