"""The table of what a part's death costs comes from the tests' own counts."""

from loadtest.studies.faults import table

RESULTS = {
    "meta": {"date": "2026-01-02T03:04:05", "commit": "abc", "machine": {"cores": 2, "cpu": "X"}},
    "faults": {
        "HAProxy": {
            "back_s": 5.6,
            "chat": {
                "streams": 4,
                "running_requests_cut": 4,
                "requests_after": 30,
                "requests_after_failed": 28,
                "failing_for_s": 5.4,
                "longest_request_s": 0.02,
            },
        }
    },
}


def test_a_row_says_what_was_cut_and_what_came_next() -> None:
    row = table(RESULTS).splitlines()[2]
    assert row == (
        "| HAProxy | chat | 4 (4 streams ran) | 2 of 30 served, the others refused or failed "
        "in the first 5 s | 0.0 s | 6 s |"
    )


def test_the_table_names_machine_date_and_commit() -> None:
    for part in ("2 cores of X", "2026-01-02", "commit abc"):
        assert part in table(RESULTS)
