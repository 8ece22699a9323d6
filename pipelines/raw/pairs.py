"""Raw pairs: Pick-a-Pic's columns, stable ids, and the rules that say which rows are kept.

A raw pair is one comparison: a caption, the images in slot 0 and slot 1, and label_0, which is 1.0 where slot 0 was
preferred, 0.0 where slot 1 was, 0.5 for a tie (Kirstain et al. 2023, Pick-a-Pic).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

REQUIRED_COLUMNS = ("caption", "jpg_0", "jpg_1", "label_0")
GROUP = "group_id"  # of pairs that share images; see groups.py
PROBABILITY = "probability_0"  # P(slot 0 preferred), where several people voted; a soft label of the human label set
OPTIONAL_COLUMNS = ("label_1", "ranking_id", "image_0_uid", "image_1_uid", "model_0", "model_1", GROUP, PROBABILITY)
MAX_CAPTION = 10_000  # characters; the longest real prompts have a few hundred

# What names a comparison, in order of preference. Contents are never part of it, so a repaired image keeps its id.
IDENTITIES = (("ranking_id", "image_0_uid", "image_1_uid"), ("caption", "image_0_uid", "image_1_uid"))
IDENTITY_OF_CONTENT = ("caption", "jpg_0", "jpg_1")
IDS = ("ranking_id", "image_0_uid", "image_1_uid")
NO_LENGTH = b"\xff" * 8  # in a hash, where a null stands: no value is so long


@dataclass(frozen=True)
class Refusal:
    """Why a row is quarantined."""

    stage: str  # caption, label, image, safety or latent
    reason: str


def hash64(*parts: bytes | None) -> int:
    """Hash byte strings, each with its length, to a signed 64-bit integer (BLAKE2b); None differs from all of them."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(NO_LENGTH if part is None else len(part).to_bytes(8, "little"))
        digest.update(part or b"")
    return int.from_bytes(digest.digest(), "little", signed=True)


def prompt_id(caption: str) -> int:
    """Return the id of a caption: the hash of its UTF-8 bytes, exactly as written."""
    return hash64(b"prompt", caption.encode("utf-8", "surrogatepass"))


def identity_columns(columns: list[str]) -> tuple[str, ...]:
    """Choose the columns that name a pair in a source with these columns."""
    return next((names for names in IDENTITIES if set(names) <= set(columns)), IDENTITY_OF_CONTENT)


def pair_ids(table: pa.Table) -> npt.NDArray[np.int64]:
    """Compute the id of each raw pair; it survives reordering, resharding and subsetting.

    A row whose ids are all null is told apart by caption and images, as in a source without ids.

    Returns:
        [rows] int64.
    """
    names = identity_columns(table.column_names)
    ids_of_rows = _hashed(table.select(names))
    ids = [name for name in names if name in IDS]
    if ids and table.num_rows:
        nameless = np.logical_and.reduce([table[name].is_null().to_numpy() for name in ids])
        if nameless.any():
            ids_of_rows[nameless] = _hashed(table.select(IDENTITY_OF_CONTENT).filter(pa.array(nameless)))
    return ids_of_rows


def _hashed(table: pa.Table) -> npt.NDArray[np.int64]:
    rows = zip(*(values(column) for column in table.columns), strict=True)
    return np.array([hash64(b"pair", *map(_identity_bytes, row)) for row in rows], dtype=np.int64)


def values(column: pa.ChunkedArray | pa.Array) -> list[object]:
    """Read a column as Python values; text that is not UTF-8 as its bytes.

    Parquet promises UTF-8, and not every writer keeps that; Arrow finds out only when a value is read.
    """
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [text_of_bytes(value) for value in column.cast(pa.large_binary()).to_pylist()]


def text_of_bytes(value: bytes | None) -> str | bytes | None:
    """Return the text that bytes hold as UTF-8; bytes that hold none as they are."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value


def label_of_text(text: str) -> float:
    """Read a label that is written as text: a number with a point or a comma, or TRUE and FALSE, as spreadsheets write.

    Raises:
        ValueError: if it is none of these.
    """
    word = text.strip().lower()
    return float(word == "true") if word in ("true", "false") else float(word.replace(",", "."))


def as_rows(table: pa.Table) -> list[dict[str, object]]:
    """Read a table as rows, each value as values() gives it."""
    columns = [values(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _identity_bytes(value: object) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


def check_caption(caption: object) -> Refusal | None:
    """Refuse a caption that no text encoder should see."""
    if not isinstance(caption, str):
        what = {type(None): "null", bytes: "bytes, not UTF-8 text"}.get(type(caption), "not text")
        return Refusal("caption", f"caption is {what}")
    if len(caption) > MAX_CAPTION:
        return Refusal("caption", f"caption longer than {MAX_CAPTION} characters")
    if any("\ud800" <= letter <= "\udfff" for letter in caption):
        return Refusal("caption", "caption holds half of a surrogate pair, which is no text")
    return None


def check_label(label_0: object, label_1: object, strict: bool) -> Refusal | None:
    """Refuse a label outside {0, 0.5, 1}, and with strict one that label_1 contradicts."""
    if label_0 is None:
        return Refusal("label", "label_0 is null")
    if not isinstance(label_0, (int, float)):
        return Refusal("label", f"label_0 is {_short(label_0)}, not a number")
    if label_0 not in (0.0, 0.5, 1.0):
        return Refusal("label", f"label_0 is {label_0}, not 0, 0.5 or 1")
    if strict and contradicts(label_0, label_1):
        return Refusal("label", f"label_1 {_short(label_1)} contradicts label_0 {label_0}")
    return None


def _short(value: object) -> str:
    return str(value)[:40]  # a reason must not hold a row's contents, however long


def contradicts(label_0: object, label_1: object) -> bool:
    """Say whether a given label_1 is not the complement of a valid label_0; an invalid one is refused for itself."""
    if label_0 not in (0.0, 0.5, 1.0) or label_1 is None:
        return False
    return not isinstance(label_1, (int, float)) or label_0 + label_1 != 1.0
