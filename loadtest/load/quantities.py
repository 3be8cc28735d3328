"""Times and rates as people write them: `100ms`, `2s`, `5m`, `3/s`, `90/m`."""

import re

_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_FORM = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(/?)\s*(ms|s|m|h)?\s*")


def seconds(value: float | str) -> float:
    """A plain number is seconds. Raises ValueError."""
    if not isinstance(value, str):
        return float(value)
    match = _FORM.fullmatch(value)
    if match is None or match[2]:
        raise ValueError(f"{value!r} is no time: write 100ms, 2s, 5m or 1h")
    return float(match[1]) * _SECONDS[match[3] or "s"]


def per_second(value: float | str) -> float:
    """A plain number is a second's. Raises ValueError."""
    if not isinstance(value, str):
        return float(value)
    match = _FORM.fullmatch(value)
    if match is None or (match[3] and not match[2]) or (match[2] and not match[3]):
        raise ValueError(f"{value!r} is no rate: write 3/s, 90/m or 100/h")
    return float(match[1]) / _SECONDS[match[3] or "s"]
