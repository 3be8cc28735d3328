"""What a phase has shown, and the table of all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from loadtest.report.statistics import Estimate, bootstrap
from loadtest.studies.prefixes.cluster import Seen
from loadtest.studies.prefixes.conversations import Turn


@dataclass(slots=True)
class Phases:
    """All phases of one number of replicas and one setting, together."""

    replicas: int
    forward: bool
    turns: list[Turn] = field(default_factory=list[Turn])
    refused: int = 0
    prompt_tokens: int = 0
    found_tokens: int = 0
    # Of each phase, over the mean of the replicas: the highest mean of running sequences, and of
    # prompt tokens.
    most_running: list[float] = field(default_factory=list[float])
    most_tokens: list[float] = field(default_factory=list[float])

    def add(
        self,
        turns: Sequence[Turn],
        refused: int,
        before: Mapping[str, Seen],
        after: Mapping[str, Seen],
        looks: Sequence[Mapping[str, Seen]],
    ) -> None:
        """One phase: its turns, and the replicas as they were in it."""
        self.turns += turns
        self.refused += refused
        given = {
            name: seen.prompt_tokens - before[name].prompt_tokens for name, seen in after.items()
        }
        self.prompt_tokens += sum(given.values())
        self.found_tokens += sum(
            seen.found_tokens - before[name].found_tokens for name, seen in after.items()
        )
        running = {
            name: sum(look[name].running for look in looks if name in look) for name in after
        }
        self.most_running.append(over_mean(list(running.values())))
        self.most_tokens.append(over_mean(list(given.values())))

    @property
    def hit_rate(self) -> float:
        return self.found_tokens / max(1, self.prompt_tokens)

    @property
    def ttft_s(self) -> list[float]:
        return [turn.first_token_s for turn in self.turns]


def over_mean(loads: Sequence[float]) -> float:
    """How many times the mean the highest is; 1 of nothing."""
    return max(loads) * len(loads) / sum(loads) if sum(loads) else 1.0


def table(measured: Sequence[Phases]) -> str:
    """In Markdown."""
    rows = [
        "| replicas | forwarding | turns | refused | prompt tokens | hit rate | of one replica's "
        "| TTFT mean ms | p50 | p95 | later turns' mean | mean / without "
        "| max / mean running | max / mean prompt tokens |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    alone = next((each.hit_rate for each in measured if each.replicas == 1), None)
    for each in measured:
        without = next(
            (one for one in measured if one.replicas == each.replicas and not one.forward), None
        )
        rows.append(_row(each, alone, without))
    return "\n".join(rows)


def _row(each: Phases, alone: float | None, without: Phases | None) -> str:
    ttft_ms = np.asarray(each.ttft_s) * 1e3
    later_ms = [turn.first_token_s * 1e3 for turn in each.turns if turn.number] or [float("nan")]
    ratio = ""
    if each.forward and without is not None and without.turns:
        found = mean_ratio(each.ttft_s, without.ttft_s)
        ratio = f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
    cells = [
        str(each.replicas),
        "on" if each.forward else "off",
        str(len(each.turns)),
        str(each.refused),
        f"{np.mean([turn.prompt_tokens for turn in each.turns]):.0f}",
        f"{each.hit_rate:.3f}",
        "" if not alone else f"{each.hit_rate / alone:.2f}",
        f"{ttft_ms.mean():.0f}",
        f"{np.percentile(ttft_ms, 50):.0f}",
        f"{np.percentile(ttft_ms, 95):.0f}",
        f"{np.mean(later_ms):.0f}",
        ratio,
        f"{np.mean(each.most_running):.2f}",
        f"{np.mean(each.most_tokens):.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def mean_ratio(times_s: Sequence[float], against_s: Sequence[float]) -> Estimate:
    """Of the means, with the interval in which 95 % of resamples of the turns lie. Turns of a
    conversation are not independent of each other, so that it is a little too narrow."""
    both = np.asarray(times_s), np.asarray(against_s)
    one, other = (
        bootstrap(len(of), lambda rows, of=of: of[rows].mean(axis=1), seed=seed)
        for seed, of in enumerate(both)
    )
    return Estimate.of(float(both[0].mean() / both[1].mean()), one / other)
