"""`python -m loadtest train-micro-r2`: trains, evaluates and writes the model's directory."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.report.results_file import REPOSITORY, write
from loadtest.studies.micro_r1.command import (
    SAMPLING_SEEDS,
    describe,
    make_tokenizer,
    save,
    saved,
)
from loadtest.studies.micro_r1.evaluate import Evaluation
from loadtest.studies.micro_r1.train import Curve, Plan, make_model, train
from loadtest.studies.micro_r2.problems import (
    HELD_OUT_OF_LEVEL,
    GradedProblem,
    Level,
    held_out_problems,
    training_problems,
)
from loadtest.studies.micro_r2.samples import GradedSampleWriter, Mix

MODEL_DIR = REPOSITORY / "serve_app" / "engine" / "micro_r2"
SEED = 1


@dataclass(frozen=True)
class Phase:
    tokens: int
    peak_rate: float
    mix: Mix


# First reading and arithmetic; then mostly what is copied, over a long thought.
PHASES = (
    Phase(3_200_000, 3e-3, Mix(sheet_share=0.25, stub_share=0.6)),
    Phase(800_000, 2e-3, Mix(sheet_share=0.08, stub_share=0.3)),
)
# The longest thought of a hard problem with all its checks, and its answer.
_LONGEST_TOKENS = 640
DESCRIPTION = (
    "Trains the tokenizer and the model on drawn word problems of three levels, measures it on "
    "held-out ones of each, reasoned in full and without reasoning, and writes model, held-out "
    "problems and training_log.json into the package."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="the model's directory")
    parser.add_argument("--seed", type=int, default=SEED)


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    held_out = held_out_problems(options.seed)
    texts = frozenset(problem.text for problem in held_out)
    tokenizer = make_tokenizer(options.seed, training_problems(options.seed, texts))
    model: Any = make_model(tokenizer, options.seed)
    console.print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    phases: list[dict[str, Any]] = []
    for seed, phase in enumerate(PHASES, start=options.seed):
        plan = Plan(seed=seed, tokens=phase.tokens, peak_rate=phase.peak_rate)
        writer = GradedSampleWriter(tokenizer, phase.mix)
        curve = train(model, writer, training_problems(seed, texts), plan, console)
        # As a saved model has them, so that a phase can also begin from one.
        for weights in model.parameters():
            weights.data = weights.data.bfloat16().float()
        described = describe(model, plan, curve)
        phases.append(described.pop("training") | asdict(phase.mix) | {"loss": curve.points})
    options.out.mkdir(parents=True, exist_ok=True)
    save(options.out, model, tokenizer)
    write_held_out(options.out / "held_out.jsonl", held_out)
    with console.status("evaluating"):
        levels = evaluate(options.out, held_out)
    log = describe(model, Plan(seed=options.seed), Curve())
    del log["training"], log["loss"]
    write(options.out / "training_log.json", log | {"levels": levels, "phases": phases})
    console.print_json(data=levels)
    return 0


def evaluate(directory: Path, held_out: Sequence[GradedProblem]) -> dict[str, Any]:
    """By level, what the saved weights can do, calculated in float32."""
    model, tokenizer = saved(directory)
    levels: dict[str, Any] = {}
    for level in Level:
        problems = [problem for problem in held_out if problem.level is level]
        evaluation = Evaluation(model, tokenizer, problems, longest_tokens=_LONGEST_TOKENS)
        levels[level] = _evaluate_level(evaluation) | {"held_out": len(problems)}
    return levels


def write_held_out(file: Path, problems: Sequence[GradedProblem]) -> None:
    """One set of all levels; `level` tells them apart."""
    numbered = [(problem, 1 + at % HELD_OUT_OF_LEVEL) for at, problem in enumerate(problems)]
    lines = [
        {
            "id": f"{problem.level}-{number:04}",
            "problem": problem.text,
            "answer": str(problem.result),
            "steps": problem.steps,
            "level": problem.level,
        }
        for problem, number in numbered
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _evaluate_level(evaluation: Evaluation) -> dict[str, Any]:
    sampled = evaluation.full(sampled_with_seed=SAMPLING_SEEDS[0])
    return {
        "greedy": evaluation.full().accuracy,
        "sampled": sampled.accuracy,
        "thinking_off": evaluation.without_thought(),
        "mean_thought_tokens": round(sampled.mean_thought_tokens, 1),
    }
