"""The folder of one run: each request as a line when it has ended, samples of the server, and at
the end the summary, the pictures and the report."""

import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from loadtest.load.faults import LoadFault
from loadtest.load.record import Record
from loadtest.load.scenario import Scenario
from loadtest.load.scenario_file import checked
from loadtest.results_file import RESULTS

RUNS = RESULTS.parent / "load"
REQUESTS, SAMPLES, SUMMARY = "requests.jsonl", "server.jsonl", "summary.json"


def default_folder(name: str) -> Path:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d-%H%M%S")
    plain = re.sub(r"[^\w.]+", "_", name)
    return RUNS / f"{plain}-{now}"


@dataclass(slots=True)
class RequestsFile:
    """Appends; what was written before a crash can be read."""

    _file: TextIO

    def add(self, record: Record) -> None:
        self._file.write(json.dumps(record.as_dict(), separators=(",", ":")) + "\n")


@contextmanager
def writing(folder: Path) -> Iterator[RequestsFile]:
    if (folder / REQUESTS).exists():
        raise LoadFault(f"{folder} holds a run already: name another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / REQUESTS).open("w", encoding="utf-8") as file:
        yield RequestsFile(file)


def write_samples(folder: Path, samples: Sequence[Mapping[str, Any]]) -> None:
    if samples:
        lines = "".join(json.dumps(sample) + "\n" for sample in samples)
        (folder / SAMPLES).write_text(lines, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, as it is read back."""

    summary: Mapping[str, Any]
    scenario: Scenario
    records: list[Record]


def read(folder: Path) -> Run:
    """Raises LoadFault."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        with (folder / REQUESTS).open(encoding="utf-8") as file:
            records = [Record.from_dict(json.loads(line)) for line in file]
        scenario = checked(summary["scenario"], str(folder / SUMMARY))
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise LoadFault(f"{folder} is no finished run: {fault!r}") from None
    return Run(summary, scenario, records)
