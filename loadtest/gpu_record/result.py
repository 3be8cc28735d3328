"""From the folder of a run to `record.json`: what each part has written, and nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from loadtest.gpu_record import plan
from loadtest.gpu_record.parts import STARTS_FILE
from loadtest.report.results_file import META, read
from loadtest.servers.systems import OURS

RECORD_FILE = "record.json"
# How a part of a run ended.
DONE, FAILED, NO_TIME = "done", "failed", "no time left"


def gather(
    folder: Path, about: Mapping[str, Any], ended: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """`about`: the machine, GPU, model and versions; `ended`: how each part ended, by name. A part
    that is not done is null."""
    done = {name for name, end in ended.items() if end["how"] == DONE}
    readers = {
        plan.STARTS: _starts,
        plan.CALIBRATE: _profile,
        plan.VALIDATE: _validation,
        plan.ANSWERS: _answers,
        plan.BUDGETS: _budgets,
        plan.OVERHEAD: _overhead,
        plan.FAULTS: _faults,
    }
    found = {
        name: _without_commands(reader(folder)) if name in done else None
        for name, reader in readers.items()
    }
    return {META: dict(about), "parts": dict(ended), **found}


def read_record(path: Path) -> dict[str, Any]:
    """A record that somebody has sent. Raises ValueError."""
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict) or not {META, "parts", *plan.BY_NAME} <= record.keys():
        raise ValueError(f"{path} is no record.json of `tierserve bench record`")
    return record


def _without_commands(measured: Any) -> Any:
    """What a part was run by names folders of whoever measured."""
    if isinstance(measured, dict):
        pairs = cast("dict[str, Any]", measured).items()
        return {name: _without_commands(value) for name, value in pairs if name != "command"}
    if isinstance(measured, list):
        return [_without_commands(value) for value in cast("list[Any]", measured)]
    return measured


def _starts(folder: Path) -> dict[str, Any]:
    starts = read(folder / STARTS_FILE)
    predicted, found = starts["predicted"]["kv_tokens"], starts["starts"][-1]["kv_tokens"]
    known = predicted and found
    return {**starts, "kv_off_by": round(found / predicted - 1, 4) if known else None}


def _profile(folder: Path) -> dict[str, Any]:
    """The profile, and the tokens a second that a full batch makes by it."""
    from loadtest.simulation.profile import read_profile

    profile = read_profile(folder / plan.PROFILE_FILE)
    sequences = int(profile.max_sequences.value)
    by_batch = {
        str(batch): round(1e3 * batch / profile.step_ms(batch, context_tokens=512.0 * batch), 1)
        for batch in _batches(sequences)
    }
    return {"profile": profile.model_dump(mode="json"), "tokens_per_s": by_batch}


def _batches(most: int) -> list[int]:
    powers = [1 << place for place in range(most.bit_length())]
    return sorted({*(batch for batch in powers if batch <= most), most})


def _validation(folder: Path) -> list[dict[str, Any]]:
    return read(folder / plan.VALIDATION_FILE)["loads"]


def _answers(folder: Path) -> dict[str, Any]:
    return read(folder / plan.ANSWERS_FILE)


def _budgets(folder: Path) -> dict[str, Any]:
    results = read(folder / plan.BUDGETS_FILE)
    return {budget: row for budget, row in results.items() if budget != META}


def _overhead(folder: Path) -> dict[str, Any]:
    return read(folder / plan.OVERHEAD_FILE)[META]["over_bare"][OURS]


def _faults(folder: Path) -> list[dict[str, Any]]:
    return read(folder / plan.FAULTS_FILE)["faults"]
