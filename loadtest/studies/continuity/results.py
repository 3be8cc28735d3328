"""What became of the streams that a fault met: figures, and the table of the docs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from loadtest.report.results_file import META
from loadtest.studies.continuity.faults import NAMES, Done
from loadtest.studies.continuity.streams import Stream, differences, percentile

SECTION = "continuity"
EXAMPLES = 5
# A batch of another size may decide between two tokens that are as good as equal.
UNBROKEN_RUNS = 3
# What a row is a row of: what differs in one of these is another one.
KEY = ("fault", "replicas", "model", "streams_at_once", "tokens", "as_served", "unbroken_runs")
# The end of their JSON is kept back until it is whole: they are silent without a fault, too.
KEPT_BACK = ("json", "tools")
LISTS = ("silences_s", "beside_s", "gone_s", "why_cut", "how_different")
HEADER = (
    "| done to chat | model | replicas | times | streams that ran | went on elsewhere | cut "
    "| text or usage differs | JSON, limit broken | silence p50 | p95 | longest "
    "| p95 of streams beside | victim gone after, p50 | longest | measured |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
)


@dataclass(frozen=True, slots=True)
class Cut:
    """One stream that ran at the fault. `at_event`: how many events its client had then."""

    kind: str
    at_event: int
    whole: bool
    valid: bool
    replays: int
    gap_s: float
    differences: Sequence[str]
    why: str = ""

    @property
    def met(self) -> bool:
        """Whether it lost its replica, which another one may still have had."""
        return self.replays > 0 or not self.whole

    @property
    def is_heard(self) -> bool:
        """Whether its silence says something."""
        return self.whole and self.kind not in KEPT_BACK

    @classmethod
    def of(cls, stream: Stream, unbroken: Sequence[Stream], at_event: int, done: Done) -> Self:
        whole = stream.whole
        return cls(
            kind=stream.ask.kind,
            at_event=at_event,
            whole=whole,
            valid=whole and stream.ask.is_valid(stream),
            replays=stream.replays,
            gap_s=stream.gap_s(done.order_s, done.order_s + done.gone_s),
            differences=differences(stream, *unbroken) if whole else (),
            why="" if whole else f"{stream.fault or stream.errors or 'no last event'}"[:300],
        )


def row_of(rows: Sequence[dict[str, Any]], *, anew: bool, **key: Any) -> dict[str, Any]:
    """The row of that key, to be added to; an empty one where there is none, or with `anew`."""
    assert key.keys() == {*KEY}
    found = [row for row in rows if all(row.get(name) == key[name] for name in KEY)]
    # Without its silences only their percentiles are known.
    if found and not anew and found[0].keys() >= {*LISTS}:
        return found[0]
    return {
        **key,
        **dict.fromkeys(("faults", "streams", "met", "replayed", "cut", "differ", "invalid"), 0),
        "control": {"streams": 0, "differ": 0},
        "taken": [],
        "by_kind": {},
        **{name: [] for name in LISTS},
    }


def keep(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """`row` among `rows`, in the place of one of another measurement of the same."""
    if not any(row is each for each in rows):
        same = ("fault", "replicas", "model")
        rows[:] = [each for each in rows if any(each[name] != row[name] for name in same)]
        rows.append(row)


def add(row: dict[str, Any], cuts: Sequence[Cut], gone_s: float, meta: Mapping[str, Any]) -> None:
    """Count one fault and the streams that ran at it. Silences are of those that went on
    elsewhere, but for the kinds that pause of themselves."""
    differ = [cut for cut in cuts if cut.differences]
    row["faults"] += 1
    row["streams"] += len(cuts)
    row["met"] += sum(cut.met for cut in cuts)
    row["replayed"] += sum(cut.replays > 0 for cut in cuts)
    row["cut"] += sum(not cut.whole for cut in cuts)
    row["differ"] += len(differ)
    row["invalid"] += sum(cut.whole and not cut.valid for cut in cuts)
    row["by_kind"] = dict(
        Counter(row["by_kind"]) + Counter(cut.kind for cut in cuts if cut.met),
    )
    heard = [cut for cut in cuts if cut.is_heard]
    row["silences_s"] += [round(cut.gap_s, 2) for cut in heard if cut.met]
    row["beside_s"] += [round(cut.gap_s, 2) for cut in heard if not cut.met]
    row["gone_s"].append(round(gone_s, 2))
    row["why_cut"] += [f"{cut.kind} at {cut.at_event}: {cut.why}" for cut in cuts if not cut.whole]
    row["how_different"] += [
        f"{cut.kind} at {cut.at_event}: {'; '.join(cut.differences)}" for cut in differ
    ]
    del row["why_cut"][EXAMPLES:], row["how_different"][EXAMPLES:]
    taken = {"date": meta["date"][:10], "commit": meta["commit"]}
    if taken not in row["taken"]:
        row["taken"].append(taken)
    row |= {f"silence_{name}_s": each for name, each in _spread(row["silences_s"]).items()}
    row |= {f"beside_{name}_s": each for name, each in _spread(row["beside_s"]).items()}
    row |= {f"gone_{name}_s": each for name, each in _spread(row["gone_s"]).items()}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "p50": percentile(values, 50),
        "p95": percentile(values, 95),
        "max": max(values, default=0.0),
    }


def table(results: Mapping[str, Any]) -> str:
    """A row for each fault, model and number of replicas."""
    rows = sorted(results["faults"], key=_order)
    meta = results[META]
    machine = meta["machine"]
    streams = sum(row["control"]["streams"] for row in rows)
    differ = sum(row["control"]["differ"] for row in rows)
    caption = (
        f"{_numbers(rows, 'streams_at_once')} streams of `/v1` at once at temperature 0, of "
        f"{_numbers(rows, 'tokens')} tokens at most, of each kind in turn (text, a "
        "reasoning budget, JSON by a schema, two answers, a tool's call, stop strings, log "
        "probabilities, completions, Anthropic's messages), each compared with the same one in "
        f"{_numbers(rows, 'unbroken_runs')} unbroken runs, of which it has to be equal to one; of "
        f"{streams} streams "
        f"{differ} were not the same in all of these. The silence is the longest one between two "
        "events of a stream that went on elsewhere, of those that began before the victim had "
        "ended (not of JSON and calls, whose end is kept back until it is whole); beside, of one "
        "whose replica lived, and which shared these cores with the start of the next one. "
        "Real vLLM, "
        f"{machine['cores']} cores of {machine['cpu']}; `python -m loadtest continuity` measures "
        "it again, with `--add` in slices."
    )
    return "\n".join([*HEADER, *map(_row, rows), "", caption])


def _numbers(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    return " or ".join(map(str, sorted({row[name] for row in rows})))


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (row["replicas"], [*NAMES].index(row["fault"]), row["model"])


def _row(row: Mapping[str, Any]) -> str:
    counted = ("faults", "streams", "replayed", "cut", "differ", "invalid")
    cells = (
        NAMES[row["fault"]],
        row["model"],
        *(str(row[name]) for name in ("replicas", *counted)),
        *(f"{row[f'silence_{name}_s']:.1f} s" for name in ("p50", "p95", "max")),
        f"{row['beside_p95_s']:.1f} s" if row.get("beside_s") else "",
        *(f"{row[f'gone_{name}_s']:.1f} s" for name in ("p50", "max")),
        _measured(row["taken"]),
    )
    return f"| {' | '.join(cells)} |"


def _measured(taken: Sequence[Mapping[str, str]]) -> str:
    """By date, the commits that were measured."""
    by_date: dict[str, list[str]] = {}
    for each in taken:
        by_date.setdefault(each["date"], []).append(each["commit"])
    return "; ".join(f"{date}, {', '.join(commits)}" for date, commits in by_date.items())
