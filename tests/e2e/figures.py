"""Figures that a run has measured, kept for the documentation where a file is asked for."""

import json
import os
from pathlib import Path

FILE_VARIABLE = "E2E_FIGURES"


def keep_figures(name: str, **figures: object) -> None:
    """Add the figures to the JSON file that the environment names, if it names one."""
    chosen = os.environ.get(FILE_VARIABLE)
    if not chosen:
        return
    path = Path(chosen)
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[name] = figures
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
