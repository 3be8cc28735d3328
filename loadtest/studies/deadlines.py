"""`python -m loadtest deadlines`: right answers in time with `deadline_ms`, beside fixed budgets.

Requests come as a Poisson process at `--loads` of what the tier serves, each with a deadline of
its own. A way with `deadline` names it to the server; in the others the server does not know it,
and the client leaves when it is over, which frees the slot. `truncate:64` is a fixed budget. All
ways meet the same arrivals, problems and deadlines, and take turns, in another order at each load
of each round.
"""

import argparse
import asyncio
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from rich.console import Console
from rich.progress import Progress

from loadtest.client.server_info import models_of
from loadtest.errors import MeasurementError, UserError
from loadtest.evaluation import datasets
from loadtest.evaluation.answers import sampling_under
from loadtest.evaluation.ask import Answer, Asker, Sampling, open_evaluation_session
from loadtest.evaluation.datasets import Problem
from loadtest.evaluation.grade import Grader
from loadtest.evaluation.options import refuse_without_extra
from loadtest.evaluation.policy_spec import PolicySpec
from loadtest.load.run import on_own_loop
from loadtest.options import add_api_key, api_key_of, base_url, natural, not_negative, positive
from loadtest.report.results_file import META, provenance
from loadtest.report.statistics import Estimate, bootstrap

DESCRIPTION = (__doc__ or "").split("\n\n")[0]
HELP_FORMAT = argparse.HelpFormatter
DEADLINE = "deadline"
WAYS = (DEADLINE, "direct", "truncate:32", "truncate:64", "truncate:128", "truncate")
# A first capacity phase: as many answers a client, so that first and last ones do not decide.
ANSWERS_A_CLIENT = 12
LEFT = "left"
REFUSED = ("429", "400")


@dataclass(frozen=True, slots=True)
class Way:
    """How a request is asked: with its deadline or without, and by which policy; None: the
    tier's."""

    deadline: bool
    spec: PolicySpec | None

    @classmethod
    def read(cls, text: str) -> Self:
        """`deadline`, `POLICY` or `deadline+POLICY`. Raises argparse's error."""
        first, _, rest = text.partition("+")
        if first != DEADLINE:
            return cls(False, PolicySpec.read(text))
        return cls(True, PolicySpec.read(rest) if rest else None)

    def __str__(self) -> str:
        return "+".join([DEADLINE] * self.deadline + [str(self.spec)] * (self.spec is not None))

    def body(self, asker: Asker, due: "Due", number: int) -> bytes:
        sampling = asker.sampling
        if self.spec is not None:
            sampling = sampling_under(sampling, self.spec)
        body = sampling.body(asker.model, due.problem, number)
        if not self.deadline:
            return body
        return json.dumps({**json.loads(body), "deadline_ms": int(due.deadline_s * 1e3)}).encode()


@dataclass(frozen=True, slots=True)
class Due:
    """One request of a phase, the same in all ways."""

    at_s: float
    deadline_s: float
    problem: Problem


@dataclass(frozen=True, slots=True)
class Outcome:
    """`refused`: at once, with a status; else the request was let in. `whole`: the answer ended by
    itself, not at a limit. `reasoning_cut`: before the model ended it."""

    refused: bool
    in_time: bool
    whole: bool
    right: bool
    reasoning_cut: bool


Outcomes = dict[str, list[Outcome]]


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--base-url",
        type=base_url,
        default="http://127.0.0.1:8000/api/chat/v1",
        help="of a tier, its /v1 included; else chat on port 8000",
    )
    add("--dataset", default="micro-r2", help="problems, as for `eval`; else micro-r2")
    add(
        "--loads",
        type=not_negative,
        nargs="+",
        default=[0.5, 1.0, 1.5],
        help="of the capacity; else 0.5 1 1.5",
    )
    add(
        "--ways",
        type=Way.read,
        nargs="+",
        metavar="WAY",
        default=[Way.read(name) for name in WAYS],
        help="deadline, a policy as of `answers`, or deadline+POLICY; the first is compared with "
        f"the others; else {' '.join(WAYS)}",
    )
    add(
        "--deadline-s",
        type=not_negative,
        nargs=2,
        default=[2.0, 60.0],
        help="log-uniform between; else 2 60",
    )
    add(
        "--clients",
        type=positive,
        default=16,
        help="that ask all the time, for the capacity; else 16",
    )
    add("--phase-s", type=positive, default=40, help="in which requests come; else 40")
    add("--rounds", type=positive, default=1, help="how often each phase is run; else 1")
    add("--seed", type=natural, default=0, help="of arrivals, deadlines and problems")
    add("--json", type=Path, metavar="FILE", help="also write what was measured")
    add_api_key(parser)


def run(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    return on_own_loop(measure(options, argv, console))


async def measure(options: argparse.Namespace, argv: list[str], console: Console) -> int:
    """Raises MeasurementError where a request is answered with neither tokens nor a refusal."""
    refuse_without_extra()
    if not 0 < options.deadline_s[0] <= options.deadline_s[1]:
        raise UserError("--deadline-s takes two times above 0, the shorter one first.")
    capacity, found = await _measured(options, console)
    console.print(f"capacity, without deadlines: {capacity:.1f} requests a second")
    text = table(found, options.phase_s * options.rounds)
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    if options.json is not None:
        document = {
            META: provenance(argv),
            "capacity_per_s": capacity,
            "seconds": options.phase_s * options.rounds,
            "loads": {
                load: {way: [asdict(each) for each in outcomes] for way, outcomes in ways.items()}
                for load, ways in found.items()
            },
        }
        options.json.write_text(json.dumps(document) + "\n")
    return 0


def table(found: Mapping[float, Mapping[str, Sequence[Outcome]]], seconds: float) -> str:
    """In Markdown. The last column: right answers of the first way by those of this one, with the
    interval in which 95 % of resampled requests have it."""
    rows = [
        "| load | way | requests | refused | let in and in time | ended by itself "
        "| reasoning cut | right and in time, a second | first way / this one |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for load, ways in found.items():
        first = next(iter(ways.values()))
        for way, outcomes in ways.items():
            admitted = [each for each in outcomes if not each.refused]
            in_time = [each for each in admitted if each.in_time]
            share = 100 * len(in_time) / max(len(admitted), 1)
            cells = (
                f"{load:g}",
                way,
                str(len(outcomes)),
                str(len(outcomes) - len(admitted)),
                f"{len(in_time)} ({share:.1f} %)",
                str(sum(each.whole for each in in_time)),
                str(sum(each.reasoning_cut for each in in_time)),
                f"{sum(each.right for each in outcomes) / seconds:.2f}",
                "" if outcomes is first else _ratio(first, outcomes),
            )
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _ratio(ours: Sequence[Outcome], other: Sequence[Outcome]) -> str:
    """Paired: a resample takes the same requests of both."""
    both = np.array([[one.right, two.right] for one, two in zip(ours, other, strict=True)], float)
    if not both[:, 1].any():
        return "no right one"
    drawn = bootstrap(len(both), lambda rows: both[rows].sum(axis=1))
    value = both[:, 0].sum() / both[:, 1].sum()
    estimate = Estimate.of(value, drawn[:, 0] / np.maximum(drawn[:, 1], 1))
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


async def _measured(
    options: argparse.Namespace, console: Console
) -> tuple[float, dict[float, Outcomes]]:
    problems = datasets.load(options.dataset).problems
    rng = random.Random(options.seed)
    ways: list[Way] = options.ways
    found: dict[float, Outcomes] = {load: {str(way): [] for way in ways} for load in options.loads}
    async with open_evaluation_session(api_key_of(options)) as http, Grader() as grader:
        model = (await models_of(http, options.base_url) or [""])[0]
        asker = Asker(http, options.base_url, model, _sampling(options.seed))
        capacity = await _capacity(asker, problems, options.clients)
        console.print(f"capacity: {capacity:.1f} requests a second")
        with Progress(console=console) as progress:
            task = progress.add_task(
                "phases", total=options.rounds * len(options.loads) * len(ways)
            )
            for _ in range(options.rounds):
                for load in options.loads:
                    dues = list(_dues(options, problems, load * capacity, rng))
                    for way in rng.sample(ways, len(ways)):
                        progress.update(task, description=f"load {load:g}, {way}")
                        found[load][str(way)] += await _phase(asker, dues, way, grader)
                        progress.advance(task)
    return capacity, found


def _sampling(seed: int) -> Sampling:
    return Sampling(temperature=0.6, top_p=0.95, seed=seed, directive=False)


async def _capacity(asker: Asker, problems: Sequence[Problem], clients: int) -> float:
    """Requests a second of clients that ask again at once, without deadlines or budgets."""
    loop = asyncio.get_running_loop()
    waiting = iter(problems[number % len(problems)] for number in range(clients * ANSWERS_A_CLIENT))

    async def client() -> None:
        for problem in waiting:
            await asker.ask(problem, run=0)

    began_s = loop.time()
    await asyncio.gather(*(client() for _ in range(clients)))
    return clients * ANSWERS_A_CLIENT / (loop.time() - began_s)


def _dues(
    options: argparse.Namespace, problems: Sequence[Problem], rate: float, rng: random.Random
) -> Iterator[Due]:
    low, high = np.log(options.deadline_s)
    at_s = rng.expovariate(rate)
    while at_s < options.phase_s:
        yield Due(at_s, float(np.exp(rng.uniform(low, high))), rng.choice(problems))
        at_s += rng.expovariate(rate)


async def _phase(asker: Asker, dues: Sequence[Due], way: Way, grader: Grader) -> list[Outcome]:
    """It ends when the last of them has its answer, was refused, or has left."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()

    async def one(number: int, due: Due) -> Answer:
        await asyncio.sleep(began_s + due.at_s - loop.time())
        return await _ask_in_time(asker, due, way, number)

    answers = await asyncio.gather(*(one(number, due) for number, due in enumerate(dues)))
    return [await _outcome(*pair, grader) for pair in zip(answers, dues, strict=True)]


async def _ask_in_time(asker: Asker, due: Due, way: Way, number: int) -> Answer:
    answer, body = Answer(due.problem.id, number), way.body(asker, due, number)
    # What the server promises is looked at later: it may be late.
    patience_s = None if way.deadline else due.deadline_s
    try:
        async with asyncio.timeout(patience_s):
            await asker.attempt(body, answer)
    except TimeoutError:
        answer.error = LEFT
    return answer


async def _outcome(answer: Answer, due: Due, grader: Grader) -> Outcome:
    refused = answer.error in REFUSED
    if answer.error is not None and not refused and not _is_late(answer):
        raise MeasurementError(f"a request failed: {answer.error} {answer.error_text}")
    in_time = answer.answered and answer.ended_s - answer.started_s <= due.deadline_s
    right = in_time and (await grader.grade(due.problem.answer, answer.text)).correct
    return Outcome(
        refused=refused,
        in_time=in_time,
        whole=answer.finish_reason == "stop",
        right=right,
        reasoning_cut=answer.reasoning_was_truncated,
    )


def _is_late(answer: Answer) -> bool:
    """It was let in, and nothing came in time; a stream that has begun says so in an event."""
    missed = answer.error == "stream" and "deadline" in (answer.error_text or "")
    return missed or answer.error in (LEFT, "504", "timeout")
