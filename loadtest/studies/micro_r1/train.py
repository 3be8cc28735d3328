"""The training loop: Muon and AdamW with warm-up and cosine, batches by length, bfloat16."""

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.console import Console

from loadtest.report.progress import bars
from loadtest.studies.micro_r1.samples import NO_LOSS, Kind, Sample, SampleWriter
from loadtest.studies.micro_r1.tokenizer import token_ids

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

HIDDEN = 192
LAYERS = 4
HEADS = 6
KEY_VALUE_HEADS = 2
FEED_FORWARD = 512
MAX_POSITIONS = 4096
# Samples are padded to a multiple of this and batched with those of the same length.
_LENGTH_UNIT = 16
_CHUNK = 1024


@dataclass(frozen=True)
class Plan:
    seed: int = 20
    # Of all batches, padding and prompts included.
    tokens: int = 7_000_000
    batch_tokens: int = 2048
    peak_rate: float = 3e-3
    warm_up: float = 0.03
    weight_decay: float = 0.05
    log_every: int = 50


@dataclass
class Curve:
    points: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    tokens: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


def make_model(tokenizer: "PreTrainedTokenizerFast", seed: int) -> "Qwen2ForCausalLM":
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        **token_ids(tokenizer),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def train(
    model: "Qwen2ForCausalLM",
    writer: SampleWriter[Kind],
    problems: Iterator[Kind],
    plan: Plan,
    console: Console,
) -> Curve:
    """Changes the model in place; the same plan and problems give the same samples."""
    optimizers = _optimizers(model, plan)
    curve = Curve()
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    recent: list[float] = []
    model.train()
    with bars(console, "{task.fields[note]}", count=False) as bar:
        task = bar.add_task("training", total=plan.tokens, note="")
        for ids, labels in _batches(writer, problems, plan):
            if curve.tokens >= plan.tokens:
                break
            rate = plan.peak_rate * _schedule(curve.tokens / plan.tokens, plan.warm_up)
            loss = _step(model, optimizers, ids, labels, rate)
            recent.append(loss)
            curve.steps += 1
            curve.tokens += ids.numel()
            curve.wall_s = time.monotonic() - began_s
            if curve.steps % plan.log_every == 0:
                _note(curve, recent)
                if not console.is_terminal:
                    _print_line(curve, plan, console)
            note = f"loss {loss:.3f}, {curve.tokens / curve.wall_s:.0f} tokens/s"
            bar.update(task, completed=curve.tokens, note=note)
    curve.cpu_s = time.process_time() - cpu_began_s
    return curve


def _step(
    model: Any, optimizers: list[Any], ids: "torch.Tensor", labels: "torch.Tensor", rate: float
) -> float:
    import torch
    from torch.nn.functional import cross_entropy

    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
    # Padding stands at the end, where a causal model needs no mask for it.
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    loss = cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=NO_LOSS
    )
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _note(curve: Curve, recent: list[float]) -> None:
    curve.points.append(
        {
            "step": curve.steps,
            "tokens": curve.tokens,
            "seconds": round(curve.wall_s, 1),
            "loss": round(sum(recent) / len(recent), 4),
        }
    )
    recent.clear()


def _print_line(curve: Curve, plan: Plan, console: Console) -> None:
    rate = curve.tokens / curve.wall_s
    left_s = max(plan.tokens - curve.tokens, 0) / rate
    loss = curve.points[-1]["loss"]
    console.print(
        f"step {curve.steps}: loss {loss:.3f}, {rate:.0f} tokens/s, {left_s / 60:.0f} min left",
        highlight=False,
    )


def _schedule(done: float, warm_up: float) -> float:
    if done < warm_up:
        return max(done / warm_up, 0.01)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def _optimizers(model: Any, plan: Plan) -> list[Any]:
    """Muon for the layers' matrices, which learns copying from half the tokens; AdamW for the rest.

    Muon's updates are scaled to AdamW's size, so that one rate serves both.
    """
    import torch

    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in named if p.dim() != 2 or "embed" in name]
    muon = torch.optim.Muon(
        matrices, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]


def _batches(
    writer: SampleWriter[Kind], problems: Iterator[Kind], plan: Plan
) -> Iterator[tuple["torch.Tensor", "torch.Tensor"]]:
    """Without end; few shapes, since the matrix library compiles its kernels for each new one."""
    rng = random.Random(f"samples {plan.seed}")
    waiting: dict[int, list[Sample]] = {}
    while True:
        for sample in writer.write(rng, list(islice(problems, _CHUNK))):
            length = math.ceil(len(sample.ids) / _LENGTH_UNIT) * _LENGTH_UNIT
            batch = waiting.setdefault(length, [])
            batch.append(sample)
            if len(batch) == plan.batch_tokens // length:
                yield _pad(batch, length)
                batch.clear()


def _pad(batch: list[Sample], length: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    import torch

    ids = torch.zeros(len(batch), length, dtype=torch.long)
    labels = torch.full((len(batch), length), NO_LOSS)
    for row, sample in enumerate(batch):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        labels[row, : len(sample.ids)] = torch.tensor(sample.labels)
    return ids, labels
