"""The medians of two checkouts' starts, and what is no checkout."""

from pathlib import Path

import pytest
from rich.console import Console

from loadtest.__main__ import make_parser
from loadtest.errors import UserError
from loadtest.studies.engine_start import run, summary


def test_medians_and_their_ratio() -> None:
    starts = [
        {"side": side, "ready_s": ready_s, "cpu_s": 20.0}
        for side, ready_s in [
            ("this", 12),
            ("other", 20),
            ("this", 10),
            ("other", 22),
            ("this", 30),
        ]
    ]
    assert summary(starts).splitlines() == [
        "s until ready: 12.0 here, 21.0 there, ratio 0.57",
        "CPU seconds: 20.0 here, 20.0 there, ratio 1.00",
    ]


def test_another_folder_is_refused(tmp_path: Path) -> None:
    argv = ["engine-start", str(tmp_path)]
    with pytest.raises(UserError, match="no checkout"):
        run(make_parser(argv).parse_args(argv), argv, Console())
