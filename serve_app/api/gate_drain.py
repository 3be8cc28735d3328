"""When a replica's slots become free, by how much work what runs has and what comes then brings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from serve_app.api.queue_entry import QueueEntry
from serve_app.core.admission.flow_history import FlowHistory
from serve_app.core.admission.queue_drain import Drain, estimate_drain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from serve_app.api.gate import Gate


def drain_of(gate: "Gate", running: Sequence[QueueEntry], waiting: Sequence[QueueEntry]) -> Drain:
    """What runs ends as its own work says; what comes then is what waits, or where nothing does,
    what was refused and is due to retry: short requests that are due behind whole ones follow each
    other quickly. Where there is none of the one it is as the other."""
    coming_work = _mean_work(waiting) or _mean_work_due(gate.histories.values())
    work = _mean_work(running) or coming_work or 1.0
    return _drain_of_running(gate, running, work).of_work(coming_work or work)


def _mean_work(entries: Sequence[QueueEntry]) -> float | None:
    return sum(entry.work for entry in entries) / len(entries) if entries else None


def _mean_work_due(histories: "Iterable[FlowHistory]") -> float | None:
    reserved = [history.reservations for history in histories]
    count = sum(map(len, reserved))
    return sum(each.work for each in reserved) / count if count else None


def _drain_of_running(gate: "Gate", running: Sequence[QueueEntry], mean_work: float) -> Drain:
    if gate.room is not None:
        return gate.room.drain(gate.room.slots(gate.limits.slots), mean_work)
    now_s = gate.clock_s()
    held = [
        (now_s - entry.started_s, entry.work)
        for entry in running
        if entry.started_s is not None
        for _ in range(entry.sequences)
    ]
    ages_s, works = [age_s for age_s, _ in held], [its_work for _, its_work in held]
    return estimate_drain(gate.service, ages_s, gate.limits.slots, works)
