"""Python searches for cycles seldom while a command imports, and as usual while it works."""

from __future__ import annotations

import gc

from infra.base import garbage


def test_thresholds_are_raised_for_imports_and_put_back_for_work() -> None:
    before = gc.get_threshold()
    kept = gc.get_freeze_count()
    try:
        garbage.search_as_usual()
        assert gc.get_freeze_count() == kept  # nothing was raised
        garbage.search_seldom()
        assert gc.get_threshold() == garbage.SELDOM
        garbage.search_as_usual()
        assert gc.get_threshold() == garbage.USUAL
        assert gc.get_freeze_count() > kept
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
