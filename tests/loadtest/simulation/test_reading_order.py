"""The package's docstring names its files, each once."""

import re
from pathlib import Path

from loadtest import simulation


def test_the_reading_order_has_every_file_once() -> None:
    assert simulation.__doc__ is not None
    named = re.findall(r"^    (\w+\.py) ", simulation.__doc__, re.MULTILINE)
    files = [path.name for path in Path(simulation.__file__).parent.glob("*.py")]
    assert sorted(named) == sorted(set(files) - {"__init__.py"})
