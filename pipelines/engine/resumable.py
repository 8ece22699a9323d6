"""A pass that can be killed at any point and started again: it is done once, and never twice.

It knows neither what runs a pass nor where its result lies: whoever describes a pass hands in functions for that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from infra.base import files, tables
from infra.base.errors import UserError
from pipelines.engine.block_rows import AlteredError

Result = TypeVar("Result")
MARKS = "_done/"  # ends the names of folders in it: the marks of blocks that are written
NOTED = "config.json"  # in the work folder: the settings that the pass was begun with


@dataclass(frozen=True, kw_only=True)
class Pass(Generic[Result]):
    """A pass over data, as `finish` needs to know it."""

    work: str
    """Folder of checkpoints and intermediate files; it is removed when the result is published."""
    settings: Mapping[str, Any]
    """What decides the rows written below `work`."""
    is_finished: Callable[[], bool]
    """Says whether the result is published already, with these settings."""
    lock: Callable[[], AbstractContextManager[Callable[[], None]]]
    """Keeps other writers out; yields a function that raises UserError where another writer took over meanwhile."""
    refuse_others: Callable[[dict[str, Any]], None] | None = None
    """Compares the noted settings of an unfinished pass with the present ones; raises UserError where they differ.
    None: rows of other settings are thrown away, and the pass begins anew."""
    prepare: Callable[[], None] = lambda: None
    """Tries what may be refused before the settings are noted, for example whether a cluster answers."""
    run: Callable[[], None]
    """Writes the rows that are missing; rows that an earlier run wrote safely are not computed again."""
    count: Callable[[], Result]
    """Reads what was written and returns what is to be published; raises UserError where a row is missing or twice."""
    publish: Callable[[Result], None]
    """Makes the result visible; what marks it as finished is written last."""


def finish(wanted: Pass[Result]) -> Result | None:
    """Do what is left of a pass and return its result; None where it was finished already.

    A finished pass is recognised without the lock, so that a folder that may only be read does for it.

    Raises:
        UserError: if another process is writing there or took over meanwhile, or if one of the pass's functions raises.
    """
    if wanted.is_finished():
        return None
    with wanted.lock() as still_held:
        if wanted.is_finished():  # by another process, just before this one took the lock
            return None
        is_new = _settle_settings(wanted)
        try:
            wanted.run()
        except UserError:
            if is_new and not _has_rows(wanted.work):  # the corrected command shall not meet these settings
                files.remove(files.join(wanted.work, NOTED), files.owner_of(wanted.work))
            raise
        result = _counted(wanted)
        still_held()
        wanted.publish(result)
        files.remove(wanted.work, files.owner_of(wanted.work))
    return result


def _counted(wanted: Pass[Result]) -> Result:
    """Count what was written; rows that other hands changed meanwhile are computed again, once."""
    try:
        return wanted.count()
    except AlteredError as error:
        print(error, file=sys.stderr, flush=True)
        wanted.run()
        return wanted.count()


def _has_rows(work: str) -> bool:
    """Say whether a pass has written rows; each job of a pass has a folder of marks, NAME_done."""
    return any(MARKS in path for path in files.list_files(work, tables.SUFFIX))


def _settle_settings(wanted: Pass[Result]) -> bool:
    """Compare the settings with those noted by an earlier run, and note the present ones; say whether none were."""
    path = files.join(wanted.work, NOTED)
    noted = files.read_json(path) if files.exists(path) else None
    if noted is not None and wanted.refuse_others is not None:
        wanted.refuse_others(noted)
    wanted.prepare()
    if wanted.refuse_others is None and noted != _as_noted(wanted.settings):
        files.remove(wanted.work, files.owner_of(wanted.work))
    files.write_json(path, wanted.settings)
    return noted is None


def _as_noted(settings: Mapping[str, Any]) -> Any:
    """Return settings as a JSON file gives them back: a tuple is a list there."""
    return json.loads(json.dumps(settings, default=str))
