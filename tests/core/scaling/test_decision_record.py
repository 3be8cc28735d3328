"""The record of decisions: a change counts once, a hold counts once, the newest come first."""

import json

from serve_app.core.scaling.decision_record import DECISIONS_KEPT, ScalingRecord, record_decision


def decided(
    previous: ScalingRecord | None, wanted: int, *, target: int = 1, held: bool = False
) -> ScalingRecord:
    return record_decision(
        previous, ScalingRecord(5.0, target, wanted, f"wants {wanted}", {"running": 3.0}), held=held
    )


def test_only_a_change_of_the_desired_replicas_is_a_decision() -> None:
    record = decided(decided(decided(None, 1), 2), 2)
    assert record.decisions_total == 1
    assert [entry.replicas_wanted for entry in record.last] == [2]
    assert decided(record, 1).decisions_total == 2


def test_a_hold_counts_once_however_long_it_lasts() -> None:
    record = decided(decided(decided(None, 1, held=True), 1, held=True), 1)
    assert record.held_total == 1
    assert decided(record, 1, held=True).held_total == 2


def test_the_last_ones_are_kept() -> None:
    record = None
    for number in range(3 * DECISIONS_KEPT):
        record = decided(record, 2 + number % 2)
    assert record is not None
    assert len(record.last) == DECISIONS_KEPT


def test_it_survives_json_with_the_newest_first() -> None:
    record = decided(decided(None, 2), 3, target=2)
    values = json.loads(json.dumps(record.as_dict()))
    assert [entry["replicas_wanted"] for entry in values["last"]] == [3, 2]
    assert ScalingRecord.from_dict(values) == record
