"""One thread and reproducible draws for every test."""

import os

# Before torch is first imported: results must not depend on how many cores run the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

# No deadline: a shared machine's hiccup is not a failure. Derandomized: a red run can be repeated.
settings.register_profile("dougong", deadline=None, derandomize=True, database=None)
settings.load_profile("dougong")
