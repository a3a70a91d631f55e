"""One thread and reproducible draws for every test."""

import os

# Before torch is first imported: results must not depend on how many cores run the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from support.chromium import find_chromium

# No deadline: a shared machine's hiccup is not a failure. Derandomized: a red run can be repeated.
settings.register_profile("dougong", deadline=None, derandomize=True, database=None)
settings.load_profile("dougong")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the browser's tests out where there is no browser; pytest counts them."""
    if find_chromium():
        return
    needing = [item for item in items if item.get_closest_marker("chromium")]
    config.hook.pytest_deselected(items=needing)
    items[:] = [item for item in items if item not in needing]
