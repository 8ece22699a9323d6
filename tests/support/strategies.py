"""What hypothesis draws for several test files, and how it looks for inputs.

It is seeded and without a time limit, so that a run finds what every run finds.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=100,
    # The first is about the machine's speed, the second about conftest's one_thread, which sets the same each time.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repeatable")

SEEDS = st.integers(0, 2**63)
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(max_size=20)
FLOAT32 = st.floats(-1e3, 1e3, width=32)
