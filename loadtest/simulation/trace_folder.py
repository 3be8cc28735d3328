"""A folder of traces as cases of the scoreboard."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loadtest.errors import UserError
from loadtest.simulation.arrivals import TIERS
from loadtest.simulation.cases import Case, with_start
from loadtest.simulation.cell import cell_of
from loadtest.simulation.clairvoyant import work_of
from loadtest.simulation.setup import Setup
from loadtest.simulation.trace import Trace, read_trace, tier_of_file
from serve_app.core.tiers import Tier

SETTINGS = "scaling.yaml"
SUFFIXES = (".csv", ".csv.gz")
GPU_TYPE = "T4"
# Where nothing is said the cluster has so many times the GPUs that the busiest interval keeps busy.
SPARE = 2.0


class FileSettings(BaseModel):
    """What `scaling.yaml` may say of a file, by its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus: dict[str, int] | None = Field(
        default=None, description="Of the cluster; unset: twice the T4 that it needs at most."
    )
    times: float = Field(default=1.0, gt=0, description="So many such loads at once.")
    rate: float = Field(default=1.0, gt=0, description="So many times as fast.")
    tier: Tier | None = Field(
        default=None, description="Whose requests they are, where the file does not say."
    )


def trace_files(folder: Path) -> Mapping[str, Path]:
    """The traces of a folder by their names without suffixes. Raises UserError."""
    found = {
        path.name.removesuffix(".gz").removesuffix(".csv"): path
        for path in sorted(folder.glob("*.csv*"))
        if path.name.endswith(SUFFIXES)
    }
    if not found:
        raise UserError(f"{folder} has no file {' or '.join(f'*{end}' for end in SUFFIXES)}")
    return found


def folder_case(path: Path) -> Case:
    """The trace as `scaling.yaml` beside it says. Raises UserError."""
    settings = settings_of(path)
    tier = settings.tier or tier_of_file(path)
    trace = replace(read_trace(path, tier=tier, rate=settings.rate), times=settings.times)
    return with_start(trace, settings.gpus or enough_gpus(trace))


def settings_of(path: Path) -> FileSettings:
    """Those of this file; the defaults where there are none. Raises UserError."""
    beside = path.parent / SETTINGS
    if not beside.exists():
        return FileSettings()
    try:
        document = yaml.safe_load(beside.read_text(encoding="utf-8")) or {}
        files = {name: FileSettings.model_validate(own) for name, own in document.items()}
    except (yaml.YAMLError, ValidationError, AttributeError) as error:
        raise UserError(f"{beside}: {error}") from error
    return files.get(path.name, FileSettings())


def enough_gpus(trace: Trace) -> Mapping[str, int]:
    """`SPARE` times the T4 that the busiest interval keeps busy, and a GPU for each tier."""
    work = work_of(
        cell_of(trace, Setup(gpus={GPU_TYPE: len(TIERS)})), Setup(gpus={GPU_TYPE: len(TIERS)})
    )
    busiest = float(np.max(np.sum(list(work.values()), axis=0)))
    return {GPU_TYPE: max(len(TIERS) + 1, math.ceil(SPARE * busiest))}
