"""What score.py leaves beside a folder's images, and how it is read.

scores/NAME/scores.parquet   image_id, caption, image_index, score: one scorer's
scores/NAME/manifest.json    the scorer, its fingerprint, and the hash of the images' manifest; written last
set.json                     what holds for the images as a set
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.base import files, tables
from infra.base.errors import UserError
from infra.base.versions import check_version
from pipelines.drawing.image_sets import DONE

SCORES = "scores"
SCORES_FILE = "scores.parquet"
SET = "set.json"
SCHEMA_VERSION = 1  # of a scorer's manifest and of the set's file
KEYS = ("image_id", "caption", "image_index")  # what an image is known by, beside its scores


def identity_of(path: str, name: str) -> dict[str, Any] | None:
    """Read which scorer, of which weights, scored which images; None where it has not scored the folder."""
    return read_manifest(path, name)["identity"] if files.exists(files.join(path, SCORES, name, DONE)) else None


def write_scores(path: str, name: str, table: pa.Table, about: Mapping[str, Any]) -> None:
    """Publish one scorer's scores: the manifest goes first and comes last."""
    folder = files.join(path, SCORES, name)
    files.remove(files.join(folder, DONE))
    scores = table.select([*KEYS, name]).rename_columns([*KEYS, "score"])
    sha = files.write_table(files.join(folder, SCORES_FILE), scores)
    manifest = {"schema_version": SCHEMA_VERSION, **about, "rows": table.num_rows, "sha256": sha}
    files.write_json(files.join(folder, DONE), manifest)


def read_manifest(path: str, name: str) -> dict[str, Any]:
    """Read what a folder's scores by one scorer say of themselves.

    Raises:
        UserError: if they are of another schema version.
    """
    folder = files.join(path, SCORES, name)
    manifest = files.read_json(files.join(folder, DONE))
    again = f"delete {folder} and run score.py again"
    check_version(files.join(folder, DONE), manifest, SCHEMA_VERSION, again, unnamed=1)
    return manifest


def scored_by(path: str) -> list[str]:
    """Name the scorers that have scored a folder."""
    return [place.split("/")[-2] for place in files.list_files(files.join(path, SCORES), DONE)]


def read_scores(path: str) -> pa.Table:
    """Read a folder's finished scores: image_id, caption, image_index and a column per scorer, in order of image_id.

    Raises:
        UserError: if no scorer has scored these images, or scores are of another schema version or differ from their
            manifest.
    """
    of = files.sha256(files.join(path, DONE))
    columns: dict[str, pa.ChunkedArray] = {}
    for name in scored_by(path):
        about = read_manifest(path, name)
        if about["identity"]["of"] != of:
            continue  # of images that were here before these
        content = files.read_bytes(files.join(path, SCORES, name, SCORES_FILE))
        if hashlib.sha256(content).hexdigest() != about["sha256"]:
            raise UserError(f"{path}: the scores of {name} differ from their manifest; delete them and run score.py")
        table = tables.parse(content)
        columns |= {key: table[key] for key in KEYS} | {name: table["score"]}
    if not columns:
        raise UserError(f"{path}: not scored yet; run score.py")
    return pa.table(columns)


def fingerprints(path: str) -> dict[str, str]:
    """Read which scorers scored a folder, by name: the fingerprints of their weights, preprocessing and formula."""
    return {name: read_manifest(path, name)["identity"]["fingerprint"] for name in scored_by(path)}


def write_set(path: str, about: Mapping[str, Any]) -> None:
    """Write what holds for a folder's images as a set: identity, config, and judged."""
    files.write_json(files.join(path, SET), {"schema_version": SCHEMA_VERSION, **about})


def read_set_record(path: str) -> dict[str, Any]:
    """Read the whole file about a folder's images as a set.

    Raises:
        UserError: if it is of another schema version.
    """
    place = files.join(path, SET)
    record = files.read_json(place)
    check_version(place, record, SCHEMA_VERSION, "delete it and run score.py again", unnamed=1)
    return record


def set_identity_of(path: str) -> dict[str, Any] | None:
    """Read which images were judged as a set, by what; None where they were not."""
    return read_set_record(path)["identity"] if files.exists(files.join(path, SET)) else None


def read_set(path: str) -> dict[str, Any]:
    """Read what score.py found of a folder's images as a set, and by whose features.

    Raises:
        UserError: if it was not judged, or by code of another schema version.
    """
    if not files.exists(files.join(path, SET)):
        raise UserError(f"{path}: not scored to the end; run score.py")
    record = read_set_record(path)
    return record["judged"] | {"feature_model": record["config"]["feature_model"]}


def paired_scores(
    policy: pa.Table, base: pa.Table, name: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Take one image per prompt, index 0, from both, in the same order.

    Raises:
        UserError: if they are not images of the same prompts.
    """
    first = [table.filter(pc.equal(table["image_index"], 0)) for table in (policy, base)]
    if first[0]["image_id"] != first[1]["image_id"]:
        raise UserError("policy and base were drawn for different prompts; give both the same --prompts and --limit")
    return first[0][name].to_numpy(), first[1][name].to_numpy()
