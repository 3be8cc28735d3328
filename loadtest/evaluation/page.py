"""`summary.md`: one evaluation for people to read."""

from collections.abc import Mapping
from typing import Any

from loadtest.evaluation.words import (
    counts,
    interval,
    markdown_table,
    mib,
    number,
    percent,
    runs,
    seconds,
)


def page(document: Mapping[str, Any]) -> str:
    settings, meta = document["settings"], document["meta"]
    parts = [
        f"# {settings['model']} on {settings['dataset']}",
        _accuracy(document),
        _runs(document),
        _tokens(document["total"], document["server"]),
        f"Asked at {settings['base_url']}, {settings['concurrency']} at a time; "
        f"{_sampling(settings)}. {meta['date'][:10]}, commit {meta['commit']}; the client ran on "
        f"{meta['machine']['cores']} cores of {meta['machine']['cpu']}.",
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
            f"Thoughts ended: {counts(total['thought_ends'])}. Told to wait (429): "
            f"{total['told_to_wait']} times. Load time: {seconds(server['load_s'])}; largest host "
            f"memory seen of the serving process: {mib(server['memory_peak_bytes'])}.",
        ]
    )


def _sampling(settings: Mapping[str, Any]) -> str:
    told = {name: value for name, value in settings["sampling"].items() if value is not None}
    return ", ".join(f"{name} {value}" for name, value in told.items())
