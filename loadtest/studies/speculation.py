"""`python -m loadtest speculation`: an engine that drafts beside one that does not.

Both are in this process, on the same cores, and asked in turns, so that drift of the machine
cancels; a round is one ratio of tokens a second. Ids are compared too: greedy answers to as many
problems must be the same.
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtest.options import positive
from loadtest.report.statistics import bootstrapped_mean
from loadtest.studies.micro_r1.problems import held_out_problems
from serve_app.config.tier import TierArgs
from serve_app.core.placement.hardware import CPU

DESCRIPTION = "Compares the tokens a second and the greedy ids of an engine that drafts tokens."
# What micro-r1 was not trained on.
PROBLEM_SEED = 1
REASONING_TOKENS, REPEATED_TOKENS = 200, 220
_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "apples": {"type": "integer", "minimum": 0, "maximum": 99},
        "ripe": {"type": "boolean"},
    },
    "required": ["name", "apples", "ripe"],
    "additionalProperties": False,
}
JSON_SCHEMA = {"type": "array", "items": _PERSON, "minItems": 8, "maxItems": 8}
NOTE = (
    "Anna keeps the garden behind the school. She waters the beans in the morning, and the "
    "tomatoes in the evening. On Friday she picks what is ripe, and takes it to the kitchen."
)
COPIES = (
    "Repeat this text word by word: ",
    "Correct the spelling of this text and change nothing else: ",
    "Write this text again, and put the name Maria in the place of Anna: ",
)
_numbers = itertools.count()
Ids = list[list[int]]


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts of one kind. `json`: bound to a schema, without reasoning."""

    name: str
    texts: Sequence[str]
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    json: bool = False


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="micro-r1", help="an embedded model, or a directory")
    add("--setting", default="auto", choices=("ngram", "suffix", "auto"), help="what is compared")
    add("--streams", type=positive, nargs="+", default=[1, 8], help="requests at a time")
    add("--rounds", type=positive, default=12, help="each with both engines, in turns")
    add("--problems", type=int, default=0, help="so many greedy answers are compared")
    add("--slice", default=None, help="engine.cpu_slice of both engines, as 0/2")


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    del argv
    return asyncio.run(_run(options, console))


async def _run(options: argparse.Namespace, console: Console) -> int:
    pair = await start_pair(options.model, options.setting, cpu_slice=options.slice)
    try:
        different = 0
        if options.problems:
            different = await _compare_ids(pair, options.problems, console)
        if options.rounds:
            console.print(await _measure(pair, options, console))
        return min(different, 1)
    finally:
        stop_pair(pair)


async def start_pair(model: str, setting: str, cpu_slice: str | None = None) -> tuple[Any, Any]:
    """Two engines of vLLM that differ in `engine.speculation`: off, and this setting."""
    # It imports Ray, which takes longer than all other commands together.
    from serve_app.serving.engine_start import start_engine

    off, on = (
        TierArgs.model_validate(
            {
                "tier": "reasoning",
                "model": model,
                "engine": {
                    "max_model_len": 512,
                    "dtype": "float32",
                    "cpu_slice": cpu_slice,
                    "speculation": each,
                    "extra_args": {
                        "max-num-seqs": 16,
                        "max-num-batched-tokens": 512,
                        "block-size": 32,
                    },
                },
            }
        )
        for each in ("off", setting)
    )
    return (await start_engine(off, CPU, _untimed))[0], (await start_engine(on, CPU, _untimed))[0]


def stop_pair(pair: tuple[Any, Any]) -> None:
    for engine in pair:
        engine.shutdown()


async def greedy_ids(engine: Any, texts: Sequence[str], *, streams: int) -> Ids:
    params = {"temperature": 0.0, "max_tokens": REASONING_TOKENS}
    return await token_ids(engine, texts, streams=streams, **params)


async def token_ids(
    engine: Any, texts: Sequence[str], *, streams: int, close: bool = False, **params: Any
) -> Ids:
    """The ids of the answers to these texts, so many at a time. `close`: without reasoning."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    tokenizer = engine._client.renderer.get_tokenizer()
    room = asyncio.Semaphore(streams)

    async def one(text: str) -> list[int]:
        message = [{"role": "user", "content": text}]
        ids: list[int] = tokenizer.apply_chat_template(
            message, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        if close:
            ids = [*ids, *tokenizer.encode("\n</think>\n\n", add_special_tokens=False)]
        sampling = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **params)
        async with room:
            name = f"study-{next(_numbers)}"
            prompt = {"prompt_token_ids": ids}
            results = _engine_generate(engine)(prompt, sampling, request_id=name)
            (whole,) = [result async for result in results]
        return list(whole.outputs[0].token_ids)

    return list(await asyncio.gather(*map(one, texts)))


def _engine_generate(engine: Any) -> Callable[..., Any]:
    """vLLM's own, below what tierserve puts around it."""
    client = engine._client
    return type(client).generate.__get__(client)


@contextmanager
def _untimed(_: str) -> Iterator[None]:
    yield


async def _compare_ids(pair: tuple[Any, Any], count: int, console: Console) -> int:
    """How many answers differ."""
    texts = [problem.text for problem in held_out_problems(PROBLEM_SEED, count)]
    found = [await greedy_ids(engine, texts, streams=8) for engine in pair]
    different = sum(plain != drafted for plain, drafted in zip(*found, strict=True))
    drafted, accepted = pair[1].load.drafted_tokens, pair[1].load.accepted_tokens
    tokens = sum(map(len, found[1]))
    console.print(
        f"greedy ids: {count - different} of {count} answers are the same; {tokens:,} tokens, of "
        f"{drafted:,} drafted ones {accepted:,} accepted"
    )
    return different


async def _measure(pair: tuple[Any, Any], options: argparse.Namespace, console: Console) -> Table:
    table = Table("workload", "streams", "ratio of tokens/s", "95 %", "tokens a step", "same ids")
    for work in workloads(options.model):
        for streams in options.streams:
            ratios, gains, same = [], [], True
            for number in range(options.rounds):
                ratio, gain, equal = await _round(pair, work, streams, number)
                ratios.append(ratio)
                gains.append(gain)
                same &= equal
            mean = bootstrapped_mean(ratios)
            row = (f"{mean.value:.2f}", f"{mean.low:.2f} to {mean.high:.2f}")
            gain = sum(gains) / len(gains)
            table.add_row(work.name, str(streams), *row, f"{gain:.2f}", "yes" if same else "no")
            console.print(f"{work.name}, {streams}: {row[0]} ({row[1]}), {gain:.2f} tokens a step")
    return table


def workloads(model: str) -> list[Workload]:
    problems = [problem.text for problem in held_out_problems(PROBLEM_SEED + 1, 96)]
    reasoning = Workload("reasoning", problems, {"max_tokens": REASONING_TOKENS})
    structured = Workload("JSON by schema", problems, {"max_tokens": REPEATED_TOKENS}, json=True)
    if "micro" in model:
        return [reasoning, structured]
    copies = [f"{copy}{NOTE}" for copy in COPIES]
    return [Workload("copies and edits", copies, {"max_tokens": REPEATED_TOKENS}), structured]


async def _round(
    pair: tuple[Any, Any], work: Workload, streams: int, number: int
) -> tuple[float, float, bool]:
    """The ratio of tokens a second, the tokens a sequence had of a step, whether ids are equal."""
    at = number * streams
    texts = [work.texts[(at + each) % len(work.texts)] for each in range(streams)]
    # Which one is first changes, for what the first one leaves behind.
    order = (0, 1) if number % 2 == 0 else (1, 0)
    rates, ids = [0.0, 0.0], [Ids(), Ids()]
    gain = 1.0
    for side in order:
        load = pair[side].load
        accepted = load.accepted_tokens
        began_s = time.perf_counter()
        params = {"temperature": 0.0, **work.params, **_bound(work)}
        ids[side] = await token_ids(pair[side], texts, streams=streams, close=work.json, **params)
        tokens = sum(map(len, ids[side]))
        rates[side] = tokens / (time.perf_counter() - began_s)
        if side == 1:
            gain = tokens / max(1, tokens - (load.accepted_tokens - accepted))
    return rates[1] / rates[0], gain, ids[0] == ids[1]


def _bound(work: Workload) -> dict[str, Any]:
    from vllm.sampling_params import StructuredOutputsParams

    return {"structured_outputs": StructuredOutputsParams(json=JSON_SCHEMA)} if work.json else {}
