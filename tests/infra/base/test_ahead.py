"""Imports ahead: on another core, one thread at a time, and never needed for what is right."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from infra.base import ahead


@pytest.fixture(autouse=True)
def _nothing_noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ahead._Ahead, "wanted", [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    yield
    ahead.wait()


def test_what_is_noted_is_imported_by_another_thread_and_waited_for() -> None:
    by: list[threading.Thread] = []
    go_on = threading.Event()

    def load() -> None:
        assert go_on.wait(60)
        by.append(threading.current_thread())

    ahead.later(load)
    ahead.begin()
    assert by == []
    go_on.set()
    ahead.wait()
    assert len(by) == 1
    assert by[0] is not threading.main_thread()
    ahead.begin()  # nothing is left
    ahead.wait()
    assert len(by) == 1


def test_a_second_beginning_waits_for_the_first() -> None:
    order: list[str] = []
    ahead.later(lambda: order.append("first"))
    ahead.begin()
    ahead.later(lambda: order.append("second"))
    ahead.begin()
    assert order[0] == "first"
    ahead.wait()
    assert order == ["first", "second"]


def test_an_import_that_fails_does_not_keep_the_next_from_being_done() -> None:
    done: list[bool] = []
    ahead.later(lambda: __import__("no_such_module"))
    ahead.later(lambda: done.append(True))
    ahead.begin()
    ahead.wait()
    assert done == [True]


def test_one_core_imports_nothing_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    done: list[bool] = []
    ahead.later(lambda: done.append(True))
    ahead.begin()
    ahead.wait()
    assert done == []
