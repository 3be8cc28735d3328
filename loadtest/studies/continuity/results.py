"""What became of the streams that a fault met: figures, and the table of the docs."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from loadtest.report.results_file import META, taken_on
from loadtest.studies.continuity.faults import NAMES
from loadtest.studies.continuity.streams import Stream, differences, percentile

SECTION = "continuity"
EXAMPLES = 5
# A batch of another size may decide between two tokens that are as good as equal.
UNBROKEN_RUNS = 3
HEADER = (
    "| done to chat | replicas | streams that ran | went on elsewhere | cut "
    "| text or usage differs | JSON or limit broken | silence p50 | p95 | longest "
    "| victim gone after, p50 | longest |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
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

    @classmethod
    def of(cls, stream: Stream, unbroken: Sequence[Stream], at_event: int, order_s: float) -> Self:
        whole = stream.whole
        return cls(
            kind=stream.ask.kind,
            at_event=at_event,
            whole=whole,
            valid=whole and stream.ask.is_valid(stream),
            replays=stream.replays,
            gap_s=stream.gap_s(order_s),
            differences=differences(stream, *unbroken) if whole else (),
            why="" if whole else f"{stream.fault or stream.errors or 'no last event'}"[:300],
        )


def figures(cuts: Sequence[Cut], gone_s: Sequence[float]) -> dict[str, Any]:
    """A row of the results file. Silences are of the streams that went on elsewhere."""
    silences_s = [cut.gap_s for cut in cuts if cut.whole and cut.met]
    differ = [cut for cut in cuts if cut.differences]
    return {
        "faults": len(gone_s),
        "streams": len(cuts),
        "cut": sum(not cut.whole for cut in cuts),
        "differ": len(differ),
        "invalid": sum(cut.whole and not cut.valid for cut in cuts),
        "replayed": sum(cut.replays > 0 for cut in cuts),
        "silence_p50_s": round(percentile(silences_s, 50), 2),
        "silence_p95_s": round(percentile(silences_s, 95), 2),
        "silence_max_s": round(max(silences_s, default=0.0), 2),
        "gone_p50_s": round(statistics.median(gone_s), 2),
        "gone_max_s": round(max(gone_s), 2),
        "why_cut": [f"{cut.kind} at {cut.at_event}: {cut.why}" for cut in cuts if not cut.whole][
            :EXAMPLES
        ],
        "how_different": [
            f"{cut.kind} at {cut.at_event}: {'; '.join(cut.differences)}" for cut in differ
        ][:EXAMPLES],
    }


def table(results: Mapping[str, Any]) -> str:
    """A row for each fault and number of replicas."""
    rows = [_row(each) for each in results["faults"]]
    meta, control = results[META], results["control"]
    runs = meta["unbroken_runs"]
    caption = (
        f"{meta['streams_at_once']} streams of `/v1` at once at temperature 0 (text, a reasoning "
        "budget, JSON, log probabilities, completions, Anthropic's messages), each compared with "
        f"the same one in {runs} unbroken runs, of which it has to be equal to one; of "
        f"{control['streams']} streams {control['differ']} were not the same in all of these. "
        "The silence is the longest one between two events of a stream that went on elsewhere, "
        f"from the fault on. Model `{meta['model']}`, real vLLM, {taken_on(meta)}; "
        "`python -m loadtest continuity` measures it again."
    )
    return "\n".join([*HEADER, *rows, "", caption])


def _row(row: Mapping[str, Any]) -> str:
    cells = (
        NAMES[row["fault"]],
        *(
            str(row[name])
            for name in ("replicas", "streams", "replayed", "cut", "differ", "invalid")
        ),
        *(f"{row[f'silence_{name}_s']:.1f} s" for name in ("p50", "p95", "max")),
        *(f"{row[f'gone_{name}_s']:.1f} s" for name in ("p50", "max")),
    )
    return f"| {' | '.join(cells)} |"
