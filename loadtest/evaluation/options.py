"""The options that `eval`, `compare` and `budget-curve` share, and what they mean."""

import argparse
import importlib.util

from loadtest.errors import UserError
from loadtest.evaluation.ask import Sampling
from loadtest.options import add_api_key, base_url, natural, positive

# A model that knows nothing but bare problems.
WITHOUT_DIRECTIVE = ("micro",)
# What the extra `eval` brings and nothing else does.
EXTRA = ("math_verify", "matplotlib")
RESUMABLE = "Stopped; the same command goes on."


def add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base-url",
        type=base_url,
        default="http://127.0.0.1:8000/api/reasoning/v1",
        help="of any OpenAI server, its /v1 included",
    )
    parser.add_argument("--model", help="the first that the server lists, if not given")


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
    add("--limit", type=positive, metavar="N", help="the first N problems of a fixed shuffle, the "
        "same ones for every model and seed")  # fmt: skip
    add("--concurrency", type=positive, default=8, help="requests at once")
    add("--k", type=positive, help="cons@k: majority of the first k runs; all runs if not given")
    add_api_key(parser)
    add("--retries", type=natural, default=0, metavar="N", help="send a failed request again; a "
        "429 with a Retry-After is waited for and sent again in any case and however often, since "
        "evaluation is not load")  # fmt: skip
    add("--resume", action=argparse.BooleanOptionalAction, default=True, help="go on where an "
        "evaluation with the same settings stopped, sending failed requests again; other settings "
        "in the same directory are refused")  # fmt: skip
    add = parser.add_argument_group("sampling").add_argument
    add("--temperature", type=float, default=0.6)
    add("--top-p", type=float, default=0.95)
    add("--seed", type=int, default=0, help="of the first run; each further run takes the next")
    add("--max-tokens", type=positive, help="reasoning and answer; the server's limit if not given")
    add("--thinking-token-budget", type=natural, metavar="TOKENS", help="vLLM's and our extension")
    add("--reasoning-effort", metavar="WORD", help="none, low, medium, high, as the server has it")
    add("--directive", action=argparse.BooleanOptionalAction, help="add “Please reason step by "
        "step, and put your final answer within \\boxed{}.” to each problem; on if not given, but "
        "for micro and with --task")  # fmt: skip
    add("--task", metavar="NAME", help="our server's field, for example math; adds no directive")


def refuse_without_extra() -> None:
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"Not installed: {', '.join(missing)}. Run `make setup`, or pip install with the extra "
            "`eval`."
        )


def sampling_of(options: argparse.Namespace) -> Sampling:
    if options.task and options.directive:
        raise UserError("--task and --directive exclude each other: the server words the task.")
    directive = options.directive
    if directive is None:
        directive = not options.task and options.dataset not in WITHOUT_DIRECTIVE
    names = ("temperature", "top_p", "seed", "max_tokens", "thinking_token_budget")
    given = {name: getattr(options, name) for name in (*names, "reasoning_effort", "task")}
    return Sampling(**given, directive=directive)


def majority_of(options: argparse.Namespace) -> int:
    """The k of cons@k."""
    if options.k is not None and options.k > options.runs:
        raise UserError(f"cons@{options.k} needs {options.k} runs; --runs is {options.runs}.")
    return options.k or options.runs
