"""Runs that have been played before: a comparison goes on where it was stopped, and of a policy
that has changed only that policy is played again."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from loadtest.report.results_file import REPOSITORY
from loadtest.simulation.cell import Cell
from loadtest.simulation.figures import RunFigures
from loadtest.simulation.setup import Setup

# What a simulated run depends on.
CODE = (
    "loadtest/simulation/*.py",
    "serve_app/core/**/*.py",
    "serve_app/api/*.py",
    "serve_app/config/*.py",
)
OURS = "ours"


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    # Its key in the files.
    law: str
    setting: Mapping[str, Any]
    code: str
    figures: RunFigures


@dataclass(frozen=True, slots=True)
class KeptRuns:
    """Files in `folder`, one for each run of a policy with a setting on a cell with a setup.

    A run of other code than `code` is played again. With `trusted` that is so for ours alone: while
    the server's scaling policy is worked on, its rivals stay what they were.
    """

    folder: Path
    played_on: str
    code: str
    trusted: bool = False

    def keep(
        self, policy: str, setting: Mapping[str, Any], play: Callable[[], RunFigures | None]
    ) -> RunFigures | None:
        """The figures of this run; those of a run that is given up are None, and not kept."""
        path = self.folder / f"{_digest(self.played_on, policy, json.dumps(setting))}.json"
        try:
            kept = _Kept.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            kept = None
        if kept is not None and (kept.code == self.code or (self.trusted and policy != OURS)):
            return kept.figures
        figures = play()
        if figures is None:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = _Kept(law=policy, setting=setting, code=self.code, figures=figures)
        # Two processes that play the same run write the same.
        partial = path.with_suffix(f".{id(figures)}.part")
        partial.write_text(kept.model_dump_json(), encoding="utf-8")
        partial.replace(path)
        return figures


def kept_runs(folder: Path, cell: Cell, setup: Setup, *, trusted: bool) -> KeptRuns:
    return KeptRuns(folder, played_on(cell, setup), code_digest(), trusted)


def played_on(cell: Cell, setup: Setup) -> str:
    """Names the cell's requests and the setup; equal ones have the same name."""
    arrivals = cell.arrivals
    columns = (
        arrivals.arrival_s,
        arrivals.tier,
        arrivals.prompt_tokens,
        arrivals.new_tokens,
        arrivals.limit,
    )
    requests = hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()
    return _digest(requests, repr((sorted(cell.gpus.items()), replace(setup, seen=None))))


@cache
def code_digest() -> str:
    """Of the sources that a run depends on, and of Ray, whose policy plays along."""
    found = hashlib.sha256(version("ray").encode())
    for pattern in CODE:
        for path in sorted(REPOSITORY.glob(pattern)):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
