"""`python -m loadtest train-micro-r1`: trains, evaluates and writes the model's directory."""

import argparse
import json
import platform
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from loadtest.report.results_file import REPOSITORY, machine, write
from loadtest.studies.micro_r1.evaluate import BUDGETS_TOKENS, Evaluation
from loadtest.studies.micro_r1.problems import Problem, held_out_problems, training_problems
from loadtest.studies.micro_r1.samples import CUT_PHRASE, SampleWriter, dress
from loadtest.studies.micro_r1.tokenizer import token_ids, train_tokenizer
from loadtest.studies.micro_r1.train import Curve, Plan, make_model, train

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

MODEL_DIR = REPOSITORY / "serve_app" / "engine" / "micro_r1"
TEMPLATE = MODEL_DIR / "chat_template.jinja"
TOKENIZER_PROBLEMS = 20_000
# More than one, since a single sampled run of 500 answers is off by a percent or so.
SAMPLING_SEEDS = (1, 2, 3)
DESCRIPTION = (
    "Trains the tokenizer and the model on drawn arithmetic word problems, "
    "measures it on held-out ones at several thinking budgets, and writes model, held-out "
    "problems and training_log.json into the package. Two cores take half an hour."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="the model's directory")
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument(
        "--tokens", type=int, default=Plan.tokens, help="length of the training, padding included"
    )


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    plan = Plan(seed=options.seed, tokens=options.tokens)
    held_out = held_out_problems(plan.seed)
    texts = frozenset(problem.text for problem in held_out)
    tokenizer = make_tokenizer(plan.seed, training_problems(plan.seed, texts))
    model = make_model(tokenizer, plan.seed)
    console.print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    problems = training_problems(plan.seed, texts)
    curve = train(model, SampleWriter(tokenizer), problems, plan, console)
    options.out.mkdir(parents=True, exist_ok=True)
    save(options.out, model, tokenizer)
    write_held_out(options.out / "held_out.jsonl", held_out)
    with console.status("evaluating"):
        log = describe(model, plan, curve) | evaluate(options.out, held_out)
    write(options.out / "training_log.json", log)
    console.print_json(data={name: log[name] for name in ("accuracy", "by_budget", "training")})
    return 0


def evaluate(directory: Path, held_out: Sequence[Problem]) -> dict[str, Any]:
    """What the saved weights can do, calculated in float32."""
    model, tokenizer = saved(directory)
    evaluation = Evaluation(model, tokenizer, held_out)
    greedy = evaluation.full()
    sampled = [evaluation.full(sampled_with_seed=seed).accuracy for seed in SAMPLING_SEEDS]
    bare = Evaluation(model, tokenizer, held_out, directive=False).full()
    cut = evaluation.by_budget(BUDGETS_TOKENS)
    points = [
        {
            "budget_tokens": budget,
            "accuracy": outcome.accuracy,
            "mean_thought_tokens": round(outcome.mean_thought_tokens, 1),
        }
        for budget, outcome in [*zip(BUDGETS_TOKENS, cut, strict=True), (None, greedy)]
    ]
    return {
        "held_out": len(held_out),
        "accuracy": {
            "greedy": greedy.accuracy,
            "greedy_without_directive": bare.accuracy,
            "sampled": sampled,
            "sampled_mean": round(sum(sampled) / len(sampled), 4),
            "thinking_off": evaluation.without_thought(),
        },
        "mean_thought_tokens": round(greedy.mean_thought_tokens, 1),
        "by_budget": points,
        "cut_phrase_tokens": len(SampleWriter(tokenizer).cut_ids),
    }


def saved(directory: Path) -> tuple[Any, Any]:
    """Model, in float32, and tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    model = Qwen2ForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(directory)


def describe(model: "Qwen2ForCausalLM", plan: Plan, curve: Curve) -> dict[str, Any]:
    import tokenizers
    import torch
    import transformers

    return {
        "parameters": model.num_parameters(),
        "seed": plan.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cpu": machine()["cpu"], "cores": torch.get_num_threads()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "training": {
            "wall_s": round(curve.wall_s, 1),
            "cpu_s": round(curve.cpu_s, 1),
            "steps": curve.steps,
            "tokens": curve.tokens,
            "batch_tokens": plan.batch_tokens,
            "peak_rate": plan.peak_rate,
        },
        "loss": curve.points,
    }


def save(directory: Path, model: "Qwen2ForCausalLM", tokenizer: "PreTrainedTokenizerFast") -> None:
    """In the form of a served model's directory, with the weights in bfloat16."""
    from transformers import GenerationConfig

    from loadtest.studies.micro_r1.evaluate import TEMPERATURE, TOP_P

    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        **token_ids(tokenizer),
    )
    model.bfloat16().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    # It is written for its owner alone, but a server may run as somebody else.
    (directory / "model.safetensors").chmod(0o644)


def write_held_out(file: Path, problems: Sequence[Problem]) -> None:
    lines = [
        {
            "id": f"micro-{at:04}",
            "problem": problem.text,
            "answer": str(problem.result),
            "steps": problem.steps,
        }
        for at, problem in enumerate(problems, start=1)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def make_tokenizer(seed: int, problems: Iterator[Any]) -> "PreTrainedTokenizerFast":
    """From the first of the problems, which may be of either model's kind."""
    rng = random.Random(f"tokenizer {seed}")
    texts = (
        text
        for problem in islice(problems, TOKENIZER_PROBLEMS)
        for text in (dress(rng, problem.text), problem.thought, problem.answer, CUT_PHRASE)
    )
    return train_tokenizer(texts, TEMPLATE)
