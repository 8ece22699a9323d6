"""The cases that are rendered."""

from __future__ import annotations

import pytest
from support.deployed import CASES

from infra.deploy.values import Values


@pytest.fixture(params=CASES)
def chosen(request: pytest.FixtureRequest) -> Values:
    """Return the values of one case."""
    return CASES[request.param]
