"""No import circle: each package of loadtest imports those before it only."""

import re
from pathlib import Path

from loadtest.__main__ import COMMANDS, make_parser
from loadtest.report.results_file import REPOSITORY

# Modules and packages, from the inner to the outer ones; those of a row know nothing of each other.
LAYERS = (
    ("errors", "options"),
    ("client", "report"),
    ("scenario", "servers", "traces"),
    ("simulation",),
    ("load", "evaluation"),
    ("calibration", "soak"),
    ("studies", "gpu_record"),
    ("__main__",),
)


def imported(file: Path) -> set[str]:
    """The parts of loadtest that a file imports, at its top or within a function."""
    text = file.read_text(encoding="utf-8")
    return set(re.findall(r"^\s*from loadtest\.(\w+)", text, re.MULTILINE))


def test_imports_go_inwards() -> None:
    layer_of = {name: layer for layer, names in enumerate(LAYERS) for name in names}
    folder = REPOSITORY / "loadtest"
    wrong = []
    for file in folder.rglob("*.py"):
        own = file.relative_to(folder).with_suffix("").parts[0]
        if own == "__init__":
            continue
        wrong += [
            f"{own} imports {other}"
            for other in imported(file)
            if other != own and layer_of[other] >= layer_of[own]
        ]

    assert sorted(set(wrong)) == []


def test_every_command_has_its_options_and_a_runner() -> None:
    for command in COMMANDS:
        assert callable(command.load().run)
        assert make_parser([command.name])
