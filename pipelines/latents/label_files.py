"""Label sets on disk: how one is written beside the latents, found, checked and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from infra.base import files, named_files, records, tables
from infra.base.errors import UserError
from infra.base.versions import check_version
from pipelines.latents.store import MANIFEST

LABELS_VERSION = 1
LABELS_FILES = ("part-0.parquet", "quarantined/part-0.parquet")
LABELS_SCHEMA = pa.schema(
    [
        ("pair_id", pa.int64()),
        ("score_0", pa.float32()),
        ("score_1", pa.float32()),
        ("label_0", pa.float32()),
        ("probability_0", pa.float32()),
    ]
)


def write_labels(store: str, name: str, table: pa.Table, manifest: Mapping[str, Any]) -> None:
    """Write a label set beside the latents: one Parquet file, then its own manifest."""
    folder = files.join(store, "labels", name)
    sha = files.write_table(files.join(folder, LABELS_FILES[0]), table.cast(LABELS_SCHEMA).sort_by("pair_id"))
    there = [part for part in LABELS_FILES if files.is_file(files.join(folder, part))]
    described = named_files.describe(folder, there)
    about = {
        "schema_version": LABELS_VERSION,
        **manifest,
        "name": name,
        "rows": table.num_rows,
        "sha256": sha,
        "files": described,
    }
    files.write_json(files.join(folder, MANIFEST), about)


def label_sets(store: str) -> list[str]:
    """Name the finished label sets of a store."""
    return sorted({path.split("/")[-2] for path in files.list_files(files.join(store, "labels"), MANIFEST)})


def read_labels_manifest(store: str, name: str, flag: str = "--labels") -> dict[str, Any]:
    """Read what a label set says of itself; flag: that named it, for a refusal's sentence.

    Raises:
        UserError: if the store has no such label set, or it is torn, renamed, of another schema version or store.
    """
    path = files.join(store, "labels", name, MANIFEST)
    if not files.exists(path):
        known = ", ".join(label_sets(store)) or "none"
        raise UserError(f"{flag} {name}: {store} has the label sets {known}; give one of them, or run relabel.py")
    again = labels_remedy(store, name)
    manifest = records.read_record(path, ("sha256",), again)
    check_version(path, manifest, LABELS_VERSION, again, unnamed=1)
    if manifest.get("name", name) != name:
        raise UserError(f"{path}: of a label set that was made as {manifest['name']}; rename its folder back to that")
    _refuse_labels_of_another_store(store, path, manifest, again)
    return manifest


def labels_remedy(store: str, name: str) -> str:
    """Say how a damaged label set is made again."""
    if name == "human":
        return "encode again with --repair"
    return f"delete {files.join(store, 'labels', name)} and run relabel.py again"


def _refuse_labels_of_another_store(store: str, path: str, labels: Mapping[str, Any], again: str) -> None:
    """Compare the contents that a label set was made for with the store's, as pair ids alone may be equal by chance.

    Human label sets of before name no contents, and pass.
    """
    named = labels.get("settings", {}).get("store_hash")
    finished = files.join(store, MANIFEST)
    if named is None or not files.exists(finished):
        return
    own = records.read_record(finished).get("content_hash")
    if named != own:
        raise UserError(f"{path}: labels of another store, of contents {named}, while {store} holds {own}; {again}")


def read_labels(store: str, name: str, flag: str = "--labels") -> tuple[pa.Table, str]:
    """Read a label set and its hash.

    Raises:
        UserError: as find_labels does.
    """
    path, sha = find_labels(store, name, flag)
    return tables.read([path]), sha


def find_labels(store: str, name: str, flag: str = "--labels") -> tuple[str, str]:
    """Return the file of a label set, checked, and its hash.

    Raises:
        UserError: as read_labels_manifest does, or if a file is missing or differs from its manifest, or a Parquet file
            that is no label set's lies beside it.
    """
    manifest = read_labels_manifest(store, name, flag)
    named_files.refuse(labels_problems(store, name, manifest))
    path = files.join(store, "labels", name, LABELS_FILES[0])
    sha = manifest["sha256"]
    if manifest.get("files") is None and files.sha256(path) != sha:  # else it was compared with the others
        raise UserError(f"{path}: its contents differ from its manifest; {labels_remedy(store, name)}")
    return path, sha


def labels_problems(store: str, name: str, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield one sentence for each file of a label set that is missing, differs, or is one too many."""
    folder = files.join(store, "labels", name)
    remedy = labels_remedy(store, name)
    yield from named_files.unknown(folder, LABELS_FILES)
    described = manifest.get("files")
    if described is not None:
        yield from named_files.problems(folder, described, remedy, contents=True)
    elif not files.is_file(files.join(folder, LABELS_FILES[0])):  # of before manifests named files
        yield f"{files.join(folder, LABELS_FILES[0])}: missing, though its manifest names it; {remedy}"
