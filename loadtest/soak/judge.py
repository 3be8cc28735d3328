"""What a soak found, as rows: a value, its limit, and whether it passed. Reads no clock and asks no
server, so that a soak can be judged again, or while it still runs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.load.compare import Compared, compare
from loadtest.load.run import Run
from loadtest.scenario import Scenario
from loadtest.soak import observations as observations_of
from loadtest.soak.growth import growth_rows
from loadtest.soak.observations import FaultDone, Observations, Wrong
from loadtest.soak.verdicts import Row, Verdict, of_interval, of_limit

# Requests of each end of the soak whose latencies are compared.
ENOUGH = 2000
# What both ends last at least. The interval takes requests for independent, and those of a shorter
# stretch all share one hiccup of the machine.
LEAST_END_S = 15.0
# The last over the first: what noise does not make of it.
MOST_RATIO = {"TTFT p50": 1.25, "TTFT p95": 1.5, "TPOT p50": 1.25}
GOODPUT = "goodput share"
MOST_GOODPUT_LOSS = 0.02
LEAST_SAMPLES = 3
# A semaphore takes a page; an engine's queue or weights would take more.
MOST_LEFT_BYTES = 2**20


def judge(path: Path, observed: Observations) -> list[Row]:
    rows = [*_answers(observed), *_faults(observed), *_accounting(observed), *growth_rows(observed)]
    rows += latency_rows(*(_ends(path, observed) or ()))
    return [*rows, *_server(observed)]


def _answers(observed: Observations) -> Iterator[Row]:
    """No answer may be lost but by a fault that cuts, while it lasts."""
    groups: dict[str, list[Wrong]] = {"outside": [], "harmless": [], "cut": []}
    for wrong in observed.wrong:
        groups[_where(wrong, observed.faults)].append(wrong)
    served = f"{observed.ended['served']:,} served, {observed.ended['refused']:,} refused"
    named = (
        ("outside", "answers lost outside of faults"),
        ("harmless", "answers lost during faults that cut nothing"),
    )
    for key, name in named:
        found = groups[key]
        reason = _reasons(found) if found else served
        yield Row("answers", name, str(len(found)), "0", of_limit(not found), reason)
    cut = groups["cut"]
    yield Row(
        *("answers", "answers lost while a part was killed", str(len(cut)), ""),
        *(Verdict.SKIPPED, _reasons(cut) or "none"),
    )


def _where(wrong: Wrong, faults: Sequence[FaultDone]) -> str:
    during = [fault for fault in faults if _overlaps(wrong, fault)]
    if any(done.fault.cuts for done in during):
        return "cut"
    return "harmless" if during else "outside"


def _overlaps(wrong: Wrong, done: FaultDone) -> bool:
    """What was sent when it was over is no longer its victim."""
    end_s = done.end_s if done.over_s is None else done.over_s
    return wrong.sent_s <= end_s and wrong.ended_s >= done.begin_s


def _faults(observed: Observations) -> Iterator[Row]:
    """Each fault was over in its time, every time."""
    for name in observed.meta["faults"]:
        done = [each for each in observed.faults if each.fault.name == name]
        ended = [each for each in done if not (each.stopped and each.over_s is None)]
        title = f"fault {name}: over"
        if not ended:
            yield Row("faults", title, "--", "", Verdict.SHORT, "there was no time for it")
            continue
        late = [each for each in ended if each.over_s is None]
        longest_s = max((e.over_s - e.begin_s for e in ended if e.over_s is not None), default=0.0)
        value = f"after {longest_s:.1f} s at most"
        times = "once" if len(ended) == 1 else f"{len(ended)} times, at last"
        reason = f"{times}: {ended[-1].target}"
        if late:
            value = f"{len(late)} of {len(ended)} not"
            words = (each.detail or f"{each.target} at {each.begin_s:.0f} s" for each in late)
            reason = "; ".join(dict.fromkeys(words))
        limit = f"{ended[0].fault.within_s:.0f} s"
        yield Row("faults", title, value, limit, of_limit(not late), reason)


def _accounting(observed: Observations) -> Iterator[Row]:
    """The server counts nobody who is not there: in each baseline there is a sample in which it
    has no more than the clients have open, and without clients it has none."""
    inside: dict[int, list[float]] = {}
    for at_s, surplus in zip(observed.at_s, observed.surplus, strict=True):
        place = observed.baseline_of(at_s)
        if place is not None and not np.isnan(surplus):
            inside.setdefault(place, []).append(surplus)
    least = {place: min(of) for place, of in inside.items() if len(of) >= LEAST_SAMPLES}
    name = "running and waiting beyond what clients have open"
    if not least:
        yield Row("accounting", name, "--", "0", Verdict.SHORT, "no baseline has 3 samples")
    else:
        most = max(least.values())
        reason = f"least of each of {len(least)} baselines"
        yield Row("accounting", name, f"{max(0.0, most):.0f}", "0", of_limit(most <= 0), reason)
    idle = observed.events.get("idle")
    name = "counts after the last client"
    if idle is None:
        yield Row("accounting", name, "--", "all 0", Verdict.SKIPPED, "the soak did not end")
        return
    left, given_up = idle["left"], idle["given_up"]
    value = ", ".join(f"{key}: {count}" for key, count in left.items()) or "all 0"
    reason = f"{idle['after_s']:.1f} s after the last answer"
    if given_up:
        reason = f"{given_up} requests had no end"
    verdict = of_limit(not left and not given_up)
    yield Row("accounting", name, value, "all 0", verdict, reason)


def _ends(path: Path, observed: Observations) -> tuple[Run, Run] | None:
    """The timed streams of the first baselines and of as many of the last; None if they are too
    few or too short."""
    count = len(observed.baselines)
    if count < 2:
        return None
    quarter = max(1, count // 4)
    orders = (range(count), range(count - 1, -1, -1))
    chosen = [_until_enough(order, observed.timed_in, quarter) for order in orders]
    if min(_lasted_s(observed, each) for each in chosen) < LEAST_END_S:
        return None
    scenario = Scenario.model_validate(observed.meta["scenario"])
    first, last = (
        Run({}, scenario, observations_of.records_in(path, observed, each)) for each in chosen
    )
    return first, last


def _until_enough(order: range, timed_in: Counter[int], most: int) -> list[int]:
    found: list[int] = []
    for place in order:
        if len(found) >= most or sum(timed_in[each] for each in found) >= ENOUGH:
            break
        found.append(place)
    return found


def _lasted_s(observed: Observations, chosen: Sequence[int]) -> float:
    return sum(observed.baselines[place][1] - observed.baselines[place][0] for place in chosen)


def latency_rows(first: Run | None = None, last: Run | None = None) -> Iterator[Row]:
    """The last baselines over the first, with the interval of `loadtest run --compare`."""
    if first is None or last is None:
        reason = f"needs two baselines, each end {LEAST_END_S:.0f} s"
        yield Row("latency", "latency", "--", "", Verdict.SHORT, reason)
        return
    for row in compare(first, last, only={*MOST_RATIO, GOODPUT}):
        if row.title == GOODPUT:
            yield _goodput(row)
        elif row.ratio is not None:
            yield _ratio(row, MOST_RATIO[row.title])


def _ratio(row: Compared, most: float) -> Row:
    assert row.ratio is not None
    low, high = row.ratio.low, row.ratio.high
    value = f"{row.a * 1e3:,.1f} → {row.b * 1e3:,.1f} ms: {row.ratio.value:.2f} times"
    reason = f"95 %: {low:.2f} to {high:.2f}"
    name = f"{row.tier}: {row.title}, last to first"
    return Row("latency", name, value, f"{most:g}", of_interval(low, high, most), reason)


def _goodput(row: Compared) -> Row:
    """Its loss: what is served in time less than at first."""
    low, high = -row.difference.high, -row.difference.low
    value = f"{row.a:.1%} → {row.b:.1%}"
    reason = f"loss, 95 %: {100 * low:+.1f} to {100 * high:+.1f} points"
    verdict = of_interval(low, high, MOST_GOODPUT_LOSS)
    limit = f"{100 * MOST_GOODPUT_LOSS:g} points less"
    return Row("latency", f"{row.tier}: goodput", value, limit, verdict, reason)


def _server(observed: Observations) -> Iterator[Row]:
    gone: Any = observed.events.get("gone")
    if gone is not None:
        yield Row("server", "Ray stayed up", "no", "", Verdict.FAIL, gone["detail"])
    if not observed.meta["own_server"]:
        return
    stopped: Any = observed.events.get("stopped")
    if stopped is None:
        reason = "the soak did not end"
        yield Row("server", "left behind after the stop", "--", "", Verdict.SKIPPED, reason)
        return
    left = stopped["processes"]
    name, verdict = "processes left behind", of_limit(not left)
    yield Row("server", name, str(len(left)), "0", verdict, ", ".join(left[:5]))
    files = stopped["shared_memory"]
    taken = sum(files.values())
    value = f"{len(files)} files, {taken / 1024:,.0f} KiB"
    verdict = of_limit(taken <= MOST_LEFT_BYTES)
    limit = f"{MOST_LEFT_BYTES / 1024:,.0f} KiB"
    yield Row("server", "left in /dev/shm", value, limit, verdict, ", ".join([*files][:5]))


def _reasons(found: Sequence[Wrong]) -> str:
    counted = Counter(f"{w.kind} of {w.tier}: {w.reason}" for w in found)
    counts = ", ".join(f"{count} times {words}" for words, count in counted.most_common(4))
    first = f"; first at {min(w.sent_s for w in found):.0f} s" if found else ""
    return counts + first
