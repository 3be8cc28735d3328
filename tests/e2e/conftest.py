"""Every test in this folder runs on real Ray and real vLLM: marked so, and given the time."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
# The first test of a cluster waits for its start: about 70 s on two free cores.
TIMEOUT_S = 400


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.ray)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT_S))
