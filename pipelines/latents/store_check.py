"""Everything that may be wrong with a finished store, one sentence each: files, label sets, cached reference errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from infra.base import files, records
from infra.base.verifying import refusals
from pipelines.latents import label_files, store

REFERENCE = "reference"
DRAW = re.compile(r"draw-\d{4,}\.parquet")  # of cached errors; those beyond the manifest are of an unfinished pass


@dataclass(frozen=True)
class ErrorFiles:
    """The files of a set of cached errors, by its manifest."""

    files: dict[str, Any]


def problems(path: str) -> Iterator[str]:
    """Yield one sentence for each thing that is wrong; every byte that a manifest names is read."""
    refused = list(refusals(partial(store.read_manifest, path)))
    yield from refused
    if not refused:
        yield from store.problems(path, store.read_manifest(path))
    names = label_files.label_sets(path)
    if "human" not in names and files.exists(files.join(path, store.MANIFEST)):
        yield f"{files.join(path, 'labels', 'human')}: missing; {label_files.labels_remedy(path, 'human')}"
    for name in names:
        yield from label_set_problems(path, name)
    for manifest in files.list_files(files.join(path, REFERENCE), store.MANIFEST):
        yield from reference_problems(manifest.rpartition("/")[0])


def label_set_problems(path: str, name: str) -> Iterator[str]:
    """Yield one sentence for each thing that is wrong with a label set."""
    refused = list(refusals(partial(label_files.read_labels_manifest, path, name)))
    yield from refused
    if not refused:
        damaged = list(label_files.labels_problems(path, name, label_files.read_labels_manifest(path, name)))
        yield from damaged or refusals(partial(label_files.read_labels, path, name))


def reference_problems(folder: str) -> Iterator[str]:
    """Yield one sentence for each thing that is wrong with a set of cached reference errors."""
    again = reference_remedy(folder)
    path = files.join(folder, store.MANIFEST)
    refused = list(refusals(partial(records.read_record, path, ("files", "settings"), again)))
    yield from refused
    if not refused:
        described = ErrorFiles(records.read_record(path)["files"])
        yield from store.problems(folder, described, unread=DRAW, remedy=again)


def reference_remedy(folder: str) -> str:
    """Say how damaged reference errors are made again."""
    return f"delete {folder} and run encode_reference.py again"
