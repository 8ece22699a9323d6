"""Reopen a finished store that lost files, so that the encoder computes their rows again and no others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from infra.base import disk_errors, files, tables
from infra.base.errors import UserError
from pipelines.engine import progress
from pipelines.latents import label_files, store

BEFORE = "before.json"  # among the work files: the manifest that the store had
HUMAN = "labels/human"
LOST = "lost"
DAMAGED = "damaged"
PASSES = {"pairs": "pair_id", "prompts": "prompt_id"}  # folder: what names a row there; pairs_done, prompts_done
GROUP_PASSES = {store.IMAGES: "image_id", "prompts": "prompt_id"}  # of a store of groups, which writes pairs/ anew


def damaged(path: str, manifest: store.Manifest) -> dict[str, str]:
    """Name a store's files that are missing or not as its manifest says, with which of the two: LOST or DAMAGED.

    A label set is named as its folder.

    Raises:
        UserError: naming a file that is there and may not be read: that is no damage, and nothing is to be deleted.
    """
    wrong = {}
    for name, about in manifest.files.items():
        file = files.join(path, name)
        if not files.is_file(file):
            wrong[name] = LOST
        elif _sha256(file) != about["sha256"]:
            wrong[name] = DAMAGED
    try:
        label_files.read_labels(path, "human")
    except UserError as error:
        if isinstance(error.__cause__, OSError):  # out of reach
            raise
        wrong[HUMAN] = DAMAGED if files.is_file(files.join(path, HUMAN, store.MANIFEST)) else LOST
    except OSError as error:
        raise UserError(f"{files.join(path, HUMAN)}: cannot be read ({disk_errors.reason(error)})") from error
    return wrong


def describe(wrong: Mapping[str, str]) -> str:
    """Say which files are lost and which are damaged."""
    parts = []
    for kind in (LOST, DAMAGED):
        names = [name for name, state in wrong.items() if state == kind]
        if names:
            parts.append(f"{', '.join(names)} {kind}")
    return "; ".join(parts)


def _sha256(path: str) -> str:
    try:
        return files.sha256(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({disk_errors.reason(error)})") from error


def reopen(path: str, manifest: store.Manifest, lost: Collection[str]) -> int:
    """Make a finished store an unfinished one that lacks what it lost, and return the number of these rows.

    The record of progress is written first and the manifest goes last: killed between, the same command begins anew.
    """
    work = files.join(path, store.WORK)
    files.remove(work)
    passes = GROUP_PASSES if manifest.counts.images else PASSES
    for folder, key in passes.items():
        kept = [name for name in manifest.files if name.startswith(f"{folder}/") and name not in lost]
        if kept:
            done = tables.read([files.join(path, name) for name in kept], [key])
            files.write_table(files.join(work, f"{folder}_done", f"{progress.REPAIRED}.parquet"), done)
    kept_files = {name: about["sha256"] for name, about in manifest.files.items() if name not in lost}
    files.write_json(files.join(work, BEFORE), {"content_hash": manifest.content_hash, "kept": kept_files})
    if manifest.source_files:
        files.write_json(files.join(work, store.SOURCE), manifest.source_files)
    files.write_json(
        files.join(work, "config.json"),
        {**manifest.config, **manifest.safety, "fingerprints": dict(manifest.fingerprints)},
    )
    for name in lost:
        files.remove(files.join(path, name), path)
    files.remove(files.join(path, store.MANIFEST))
    return sum(int(manifest.files[name]["rows"]) for name in lost if name.split("/")[0] in passes)


def refuse_altered(path: str, described: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse files that a repair found whole and that differ by now; nothing is compared where there was no repair.

    Args:
        described: the store's files by path, with the sha256 of each.

    Raises:
        UserError: naming the first of them.
    """
    noted = files.join(path, store.WORK, BEFORE)
    kept = files.read_json(noted).get("kept", {}) if files.exists(noted) else {}
    for name, sha256 in kept.items():
        about = described.get(files.join(path, name))
        if about is not None and about["sha256"] != sha256:
            raise UserError(
                f"{files.join(path, name)}: changed since the repair began; delete it, then the same command computes "
                "its rows again"
            )


def compared(path: str, manifest: store.Manifest) -> str | None:
    """Say how a store's contents after a repair are to those before; None where there was none."""
    noted = files.join(path, store.WORK, BEFORE)
    if not files.exists(noted):
        return None
    if files.read_json(noted)["content_hash"] == manifest.content_hash:
        return "repaired: the same contents as before"
    return (
        "repaired, but what was computed again differs from what was lost, as with other versions or hardware: "
        "runs and reference errors of this store begin anew"
    )
