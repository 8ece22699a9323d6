"""What score.py leaves beside a folder's images, and how it is read.

scores/NAME/scores.parquet   image_id, caption, image_index, score: one scorer's
scores/NAME/manifest.json    the scorer, its fingerprint, and the hash of the images' manifest; written last
set.json                     what holds for the images as a set
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.base import files, models, records, tables
from infra.base.errors import UserError
from infra.base.verifying import refusals
from infra.base.versions import check_version
from pipelines.drawing import image_sets
from pipelines.drawing.image_sets import DONE

SCORES = "scores"
SCORES_FILE = "scores.parquet"
SET = "set.json"
SCHEMA_VERSION = 1  # of a scorer's manifest and of the set's file
AGAIN = "delete it and run score.py again"
KEYS = ("image_id", "caption", "image_index")  # what an image is known by, beside its scores


def images_hash(path: str) -> str:
    """Return the hash of the manifest of a folder's images, by which scores name what they are of.

    Raises:
        UserError: if the folder holds no finished images.
    """
    image_sets.read_manifest(path)
    return files.sha256(files.join(path, DONE))


def identity_of(path: str, name: str) -> dict[str, Any] | None:
    """Read which scorer, of which weights, scored which images; None where it has not scored the folder."""
    return read_manifest(path, name)["identity"] if files.exists(files.join(path, SCORES, name, DONE)) else None


def write_scores(path: str, name: str, table: pa.Table, about: Mapping[str, Any]) -> None:
    """Publish one scorer's scores: the manifest goes first and comes last."""
    folder = files.join(path, SCORES, name)
    files.remove(files.join(folder, DONE), path)
    scores = table.select([*KEYS, name]).rename_columns([*KEYS, "score"])
    sha = files.write_table(files.join(folder, SCORES_FILE), scores)
    manifest = {"schema_version": SCHEMA_VERSION, **about, "rows": table.num_rows, "sha256": sha}
    files.write_json(files.join(folder, DONE), manifest)


def read_manifest(path: str, name: str) -> dict[str, Any]:
    """Read what a folder's scores by one scorer say of themselves.

    Raises:
        UserError: if they are of another schema version or scorer, or their manifest is torn.
    """
    folder = files.join(path, SCORES, name)
    path = files.join(folder, DONE)
    again = f"delete {folder} and run score.py again"
    manifest = records.read_record(path, ("identity",), again)
    check_version(path, manifest, SCHEMA_VERSION, again, unnamed=1)
    made_by = manifest["identity"].get("scorer", name)
    if made_by != name:
        raise UserError(f"{path}: scores of {made_by} in the folder of {name}; rename the folder, or {again}")
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
    of = images_hash(path)
    columns: dict[str, pa.ChunkedArray] = {}
    for name in scored_by(path):
        about = read_manifest(path, name)
        if about["identity"]["of"] != of:
            continue  # of images that were here before these
        table = _read_one(path, name)
        columns |= {key: table[key] for key in KEYS} | {name: table["score"]}
    if not columns:
        raise UserError(f"{path}: not scored yet; run score.py")
    return pa.table(columns)


def _read_one(path: str, name: str) -> pa.Table:
    sha256 = read_manifest(path, name).get("sha256")
    folder = files.join(path, SCORES, name)
    place = files.join(folder, SCORES_FILE)
    again = f"delete {folder} and run score.py again"
    if not files.is_file(place):
        raise UserError(f"{place}: missing, though its manifest names it; {again}")
    content = files.read_bytes(place)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{place}: its contents differ from its manifest; {again}")
    return tables.parse(place, content)


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
    record = records.read_record(place, ("identity", "config", "judged"), AGAIN)
    check_version(place, record, SCHEMA_VERSION, AGAIN, unnamed=1)
    return record


def set_identity_of(path: str) -> dict[str, Any] | None:
    """Read which images were judged as a set, by what; None where they were not."""
    return read_set_record(path)["identity"] if files.exists(files.join(path, SET)) else None


def read_set(path: str) -> dict[str, Any]:
    """Read what score.py found of a folder's images as a set, and by whose features.

    Raises:
        UserError: if it was not judged, or by code of another schema version, or these are other images by now.
    """
    if not files.exists(files.join(path, SET)):
        raise UserError(f"{path}: not scored to the end; run score.py")
    record = read_set_record(path)
    if record["identity"].get("of") != images_hash(path):
        raise UserError(f"{files.join(path, SET)}: of other images than those in {path}; {AGAIN}")
    return record["judged"] | {"feature_model": record["config"]["feature_model"]}


def problems(path: str) -> Iterator[str]:
    """Yield one sentence for each thing that is wrong with a folder's scores."""
    names = scored_by(path)
    folder = files.join(path, SCORES)
    for scores in files.list_files(folder, SCORES_FILE):
        name = scores.removeprefix(f"{folder}/").split("/")[0]
        if name not in names:
            yield f"{files.join(folder, name, DONE)}: missing; delete {files.join(folder, name)} and run score.py again"
    for name in names:
        yield from refusals(partial(_read_one, path, name))
    if names:
        yield from refusals(lambda: read_set(path))


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


def set_identity(folder: str, true_images: str | None, feature_model: Path) -> dict[str, Any]:
    """Return what the judgement of a folder depends on; where it is equal the folder need not be judged again."""
    return {
        "of": files.sha256(files.join(folder, DONE)),
        "true_images": files.sha256(files.join(true_images, DONE)) if true_images else None,
        "features": models.fingerprint(feature_model, "vae"),
    }
