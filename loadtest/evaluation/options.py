"""The options that `eval`, `compare` and `budget-curve` share, and what they mean."""

import argparse
import datetime
import os
import re
from pathlib import Path
from typing import Any

from loadtest.evaluation.ask import Sampling
from loadtest.evaluation.datasets import Dataset
from loadtest.evaluation.faults import EvaluationFault
from loadtest.results_file import RESULTS

EVALUATIONS = RESULTS.parent / "eval"
# A model that knows nothing but bare problems.
WITHOUT_DIRECTIVE = ("micro",)


def add_asking(parser: argparse.ArgumentParser, *, runs: int) -> None:
    """What is asked, and how; the server is the command's own matter."""
    add = parser.add_argument
    add(
        "--dataset",
        default="gsm8k",
        metavar="NAME|FILE",
        help="gsm8k, math500, micro, or a JSONL file with `problem` or `question`, and `answer` "
        "(GSM8K's `#### 42` form is understood)",
    )
    add("--runs", type=positive, default=runs, help="each problem so often, with other seeds")
    add(
        "--limit",
        type=positive,
        metavar="N",
        help="the first N problems of a fixed shuffle, the same ones for every model and seed",
    )
    add("--concurrency", type=positive, default=8, help="requests at once")
    add("--k", type=positive, help="cons@k: majority of the first k runs; all runs if not given")
    add("--api-key", help="else OPENAI_API_KEY, if it is set")
    add(
        "--retries",
        type=natural,
        default=0,
        metavar="N",
        help="ask a failed request again; a 429 with a Retry-After is waited for and asked again "
        "in any case and however often, since evaluation is not load",
    )
    add(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on where an evaluation with the same settings stopped, asking failed requests "
        "again; other settings in the same directory are refused",
    )
    _add_sampling(parser)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("sampling").add_argument
    add("--temperature", type=float, default=0.6)
    add("--top-p", type=float, default=0.95)
    add("--seed", type=int, default=0, help="of the first run; each further run takes the next")
    add("--max-tokens", type=positive, help="thought and answer; the server's limit if not given")
    add("--thinking-token-budget", type=natural, metavar="TOKENS", help="vLLM's and our extension")
    add("--reasoning-effort", metavar="WORD", help="none, low, medium, high, as the server has it")
    add(
        "--directive",
        action=argparse.BooleanOptionalAction,
        help="add “Please reason step by step, and put your final answer within \\boxed{}.” to "
        "each problem; on if not given, but for micro and with --task",
    )
    add("--task", metavar="NAME", help="our server's field, for example math; adds no directive")


def sampling_of(options: argparse.Namespace) -> Sampling:
    if options.task and options.directive:
        raise EvaluationFault(
            "--task and --directive exclude each other: the server words the task."
        )
    directive = options.directive
    if directive is None:
        directive = not options.task and options.dataset not in WITHOUT_DIRECTIVE
    return Sampling(
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        max_tokens=options.max_tokens,
        thinking_token_budget=options.thinking_token_budget,
        reasoning_effort=options.reasoning_effort,
        task=options.task,
        directive=directive,
    )


def settings_of(
    options: argparse.Namespace, sampling: Sampling, dataset: Dataset, *, base_url: str, model: str
) -> dict[str, Any]:
    """What the answers depend on: an evaluation goes on only with the very same."""
    return {
        "base_url": base_url,
        "model": model,
        "dataset": dataset.name,
        "problems": len(dataset.problems),
        "problems_sha256": dataset.fingerprint,
        "runs": options.runs,
        "concurrency": options.concurrency,
        "sampling": sampling.as_dict(),
    }


def majority_of(options: argparse.Namespace) -> int:
    """The k of cons@k."""
    if options.k is not None and options.k > options.runs:
        raise EvaluationFault(f"cons@{options.k} needs {options.k} runs; --runs is {options.runs}.")
    return options.k or options.runs


def default_folder(*words: str) -> Path:
    """In the results, named from what it is of and today's date."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return EVALUATIONS / "-".join(re.sub(r"[^\w.]+", "_", word) for word in (*words, today))


def api_key(options: argparse.Namespace) -> str | None:
    return options.api_key or os.environ.get("OPENAI_API_KEY")


def base_url(text: str) -> str:
    if not re.match(r"https?://[^/\s]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no http:// or https:// address")
    return text.rstrip("/")


def positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value
