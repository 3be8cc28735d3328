"""A soak's folder with made-up lines: what a test says of it, and else a soak without a fault."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.report.results_file import write
from loadtest.report.run_folder import RunFolder
from loadtest.scenario import Slo
from loadtest.soak.observations import EVENTS, META, REQUESTS, SAMPLES
from loadtest.soak.plan import plan_for
from loadtest.soak.traffic import KINDS, scenario_of

MIB = 2**20
HOUR_S = 3600.0
Value = Callable[[float], float]


def write_soak(
    path: Path,
    *,
    hours: float = 24.0,
    baselines: int = 24,
    memory: Value = lambda at_s: 900 * MIB,
    handles: Value = lambda at_s: 100,
    series: Value = lambda at_s: 1500,
    session: Value = lambda at_s: 5 * MIB,
    surplus: Value = lambda at_s: 0,
    ttft: Value = lambda at_s: 0.1,
    restarts_s: Sequence[float] = (),
    events: Sequence[dict[str, Any]] = (),
    requests: Sequence[dict[str, Any]] = (),
    faults: Sequence[str] = (),
    noise: float = 0.01,
) -> Path:
    """One process, `engine chat`, and one tier; a restart gives it a new pid. `noise`: the
    standard deviation of memory and TTFT, as a share."""
    rng = random.Random(7)
    scenario = scenario_of("http://127.0.0.1:1", {"chat": 1.0}, Slo(ttft=1.0), 0, 60)
    plan = dataclasses.asdict(plan_for(hours))
    write(
        path / META,
        {
            "date": "2026-01-01T00:00:00+00:00",
            "commit": "made",
            "machine": {"cores": 2, "cpu": "none"},
            "command": "made",
            "plan": plan,
            "faults": list(faults),
            "own_server": True,
            "models": ["none"],
            "profile": "none",
            "scenario": scenario.model_dump(mode="json", exclude_none=True),
        },
    )
    with RunFolder(path) as folder:
        length_s = hours * HOUR_S / baselines
        for number in range(baselines):
            begin_s = number * length_s
            folder.add(
                EVENTS,
                {"event": "baseline", "begin_s": begin_s, "end_s": begin_s + 0.8 * length_s},
            )
            for step in range(6):
                at_s = begin_s + 0.8 * length_s * (step + 0.5) / 6
                pid = 100 + sum(at_s >= restart_s for restart_s in restarts_s)
                folder.add(
                    SAMPLES,
                    _sample(at_s, pid, rng, noise, memory, handles, series, session, surplus),
                )
            for place in range(40):
                at_s = begin_s + 0.8 * length_s * place / 40
                first_s = ttft(at_s) * max(0.1, 1 + 5 * noise * rng.gauss(0, 1))
                folder.add(REQUESTS, request(place, at_s, first_token_s=at_s + first_s))
        for event in events:
            folder.add(EVENTS, event)
        for line in requests:
            folder.add(REQUESTS, line)
    return path


def request(number: int, at_s: float, *, kind: str = "short", **facts: Any) -> dict[str, Any]:
    """A stream of chat that was served, unless `facts` say otherwise."""
    document = {
        "kind": kind,
        "wrong": None,
        "number": number,
        "load": [each.name for each in KINDS].index(kind),
        "tier": "chat",
        "planned_s": at_s,
        "input_tokens_asked": 8,
        "output_tokens_asked": 9,
        "sent_s": at_s,
        "first_sent_s": at_s,
        "ended_s": at_s + 1,
        "outcome": "served",
        "output_tokens": 9,
        "refusals": [],
    }
    if "first_token_s" in facts:
        document["gaps_ms"] = [400.0]
    return document | facts


def a_fault(
    name: str, begin_s: float, over_s: float | None, end_s: float, **facts: Any
) -> dict[str, Any]:
    return {
        "event": "fault",
        "name": name,
        "round": 0,
        "target": "the part",
        "begin_s": begin_s,
        "over_s": over_s,
        "end_s": end_s,
        "stopped": False,
        "detail": "",
    } | facts


def _sample(
    at_s: float,
    pid: int,
    rng: random.Random,
    noise: float,
    memory: Value,
    handles: Value,
    series: Value,
    session: Value,
    surplus: Value,
) -> dict[str, Any]:
    part = {
        "role": "engine chat",
        "pid": pid,
        "started_s": float(pid),
        "memory_bytes": memory(at_s) * (1 + noise * rng.gauss(0, 1)),
        "handles": handles(at_s),
        "threads": 30,
    }
    return {
        "phase": "baseline",
        "at_s": at_s,
        "lag_s": 0.001,
        "in_flight": {"chat": 2},
        "tiers": {"chat": {"running": 2 + surplus(at_s), "queued": 0, "queue_depth": 0}},
        "series": series(at_s),
        "metrics_bytes": 100_000,
        "metrics_s": 0.01,
        "processes": [part],
        "shared_memory_bytes": 10 * MIB,
        "session_bytes": session(at_s),
    }
