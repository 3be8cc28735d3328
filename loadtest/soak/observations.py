"""A soak's folder, read once and kept small: days of samples and requests fit into memory."""

from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.client.record import Outcome, Record
from loadtest.report.run_folder import read_document, read_lines
from loadtest.servers.processes import OTHER
from loadtest.soak.plan import FAULTS, Fault
from loadtest.soak.traffic import TIMED

META, REQUESTS, SAMPLES, EVENTS = "meta.json", "requests.jsonl", "samples.jsonl", "events.jsonl"

Span = tuple[float, float]
# Of a server's processes of one role, summed.
SUMMED = ("memory_bytes", "handles", "threads")
SCALARS = ("series", "metrics_bytes", "metrics_s", "session_bytes", "shared_memory_bytes", "lag_s")


@dataclass(frozen=True, slots=True)
class FaultDone:
    """`over_s` is None of one that was not over in its time. `stopped`: the soak ended first."""

    fault: Fault
    target: str
    begin_s: float
    over_s: float | None
    end_s: float
    stopped: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Wrong:
    """A request that did not get what it was to get."""

    sent_s: float
    ended_s: float
    tier: str
    kind: str
    reason: str


@dataclass(slots=True)
class Observations:
    """Times in seconds of the run. `roles`: by role and what they use, a value for each sample
    (`at_s`), nan where the role had no process. `processes`: memory of each one, by its role."""

    meta: Mapping[str, Any]
    events: dict[str, Mapping[str, Any]]
    baselines: list[Span]
    faults: list[FaultDone]
    at_s: array = field(default_factory=lambda: array("d"))
    roles: dict[str, dict[str, array]] = field(default_factory=dict)
    processes: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    scalars: dict[str, array] = field(default_factory=dict)
    # What the server counts as running or waiting, less what the clients have open.
    surplus: array = field(default_factory=lambda: array("d"))
    tiers: dict[str, dict[str, array]] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[Wrong] = field(default_factory=list)
    # By tier: when requests ended so, and of timed streams when they were sent and their TTFT.
    served_at_s: dict[str, array] = field(default_factory=dict)
    refused_at_s: dict[str, array] = field(default_factory=dict)
    ttft: dict[str, tuple[array, array]] = field(default_factory=dict)
    timed_in: Counter[int] = field(default_factory=Counter)

    def baseline_of(self, at_s: float) -> int | None:
        """The number of the baseline that holds this time."""
        place = bisect_right(self.baselines, (at_s, float("inf"))) - 1
        if place < 0 or at_s > self.baselines[place][1]:
            return None
        return place


def read(path: Path) -> Observations:
    """What was written so far. Raises UserError."""
    observed = _of_events(
        read_document(path, META, "soak's folder"), list(read_lines(path, EVENTS))
    )
    for sample in read_lines(path, SAMPLES):
        _add_sample(observed, sample)
    for line in read_lines(path, REQUESTS):
        _add_request(observed, line)
    return observed


def records_in(path: Path, observed: Observations, chosen: Sequence[int]) -> list[Record]:
    """The timed streams that were sent in these baselines."""
    baselines = set(chosen)
    return [
        Record.from_dict(line)
        for line in read_lines(path, REQUESTS)
        if line["kind"] in TIMED and observed.baseline_of(line["planned_s"]) in baselines
    ]


def _of_events(meta: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> Observations:
    single = {event["event"]: event for event in events}
    baselines = [(e["begin_s"], e["end_s"]) for e in events if e["event"] == "baseline"]
    return Observations(meta, single, baselines, list(_faults(events)))


def _faults(events: Sequence[Mapping[str, Any]]) -> Iterator[FaultDone]:
    known = {fault.name: fault for fault in FAULTS}
    begun: Mapping[str, Any] | None = None
    for event in events:
        if event["event"] == "fault-begins":
            begun = event
        if event["event"] == "fault":
            begun = None
            yield FaultDone(
                known[event["name"]],
                event["target"],
                event["begin_s"],
                event["over_s"],
                event["end_s"],
                event["stopped"],
                event["detail"],
            )
    if begun is not None:
        # The soak was cut off, or still goes on.
        fault = known[begun["name"]]
        yield FaultDone(fault, "", begun["begin_s"], None, float("inf"), True, "")


def _add_sample(observed: Observations, sample: Mapping[str, Any]) -> None:
    before = len(observed.at_s)
    observed.at_s.append(sample["at_s"])
    sums: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(("count", *SUMMED), 0.0))
    for part in sample.get("processes", ()):
        of_role = sums[part["role"]]
        of_role["count"] += 1
        for name in SUMMED:
            of_role[name] += part[name]
        if part["role"] != OTHER:
            key = f"{part['pid']} {part['started_s']}"
            found = observed.processes.setdefault(part["role"], {}).setdefault(key, [])
            found.append((sample["at_s"], part["memory_bytes"]))
    for role in {*sums, *observed.roles}:
        columns = observed.roles.setdefault(role, {})
        for name in ("count", *SUMMED):
            _column(columns, name, before).append(sums[role][name] if role in sums else _NAN)
    for name in SCALARS:
        value = sample.get(name)
        _column(observed.scalars, name, before).append(_NAN if value is None else value)
    _add_counts(observed, sample, before)


def _add_counts(observed: Observations, sample: Mapping[str, Any], before: int) -> None:
    tiers = sample["tiers"]
    counted = sum((tier["running"] or 0) + (tier["queued"] or 0) for tier in tiers.values())
    observed.surplus.append(counted - sum(sample["in_flight"].values()) if tiers else _NAN)
    for name in {*tiers, *observed.tiers}:
        columns = observed.tiers.setdefault(name, {})
        for count in ("running", "queue_depth"):
            value = tiers.get(name, {}).get(count)
            _column(columns, count, before).append(_NAN if value is None else value)


def _add_request(observed: Observations, line: Mapping[str, Any]) -> None:
    tier, outcome = line["tier"], line["outcome"]
    sent_s, ended_s = line.get("sent_s", line["planned_s"]), line.get("ended_s", line["planned_s"])
    observed.ended[outcome] += 1
    if line["wrong"] is not None:
        observed.wrong.append(Wrong(sent_s, ended_s, tier, line["kind"], line["wrong"]))
    if outcome == Outcome.SERVED:
        observed.served_at_s.setdefault(tier, array("d")).append(ended_s)
    if outcome == Outcome.REFUSED:
        observed.refused_at_s.setdefault(tier, array("d")).append(ended_s)
    if line["kind"] in TIMED and "first_token_s" in line and outcome == Outcome.SERVED:
        at_s, ttft_s = observed.ttft.setdefault(tier, (array("d"), array("d")))
        at_s.append(sent_s)
        ttft_s.append(line["first_token_s"] - sent_s)
        place = observed.baseline_of(line["planned_s"])
        if place is not None:
            observed.timed_in[place] += 1


def _column(columns: dict[str, array], name: str, before: int) -> array:
    """A column that was not there before is nan until now."""
    if name not in columns:
        columns[name] = array("d", [_NAN] * before)
    return columns[name]


_NAN = float("nan")
