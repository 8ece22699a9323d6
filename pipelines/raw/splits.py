"""Splits that the names of a folder's files tell, by the words that the datasets library looks for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from infra.base.errors import UserError

USUAL = "train"  # the default of every --split
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SHARD = re.compile(r"(?:^|/)(\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*\.parquet$")  # SPLIT-00000-of-00001.parquet
_WORD = {
    split: re.compile(rf"(?:^|[-._ 0-9/])(?:{'|'.join(words)})(?=[-._ 0-9/])", re.IGNORECASE)
    for split, words in WORDS.items()
}


def split_of(name: str) -> str | None:
    """Return the split that a file's path within its folder tells, or None.

    A shard's name tells it whatever the word is; otherwise the last folder or name with one of WORDS does.
    """
    shard = SHARD.search(name)
    if shard:
        return next((split for split, words in WORDS.items() if shard[1].lower() in words), shard[1])
    for part in reversed(name.split("/")):
        named = [split for split, word in _WORD.items() if word.search(f"{part}/")]
        if named:
            return named[0] if len(named) == 1 else None
    return None


def of_folder(folder: str, paths: Sequence[str], split: str, shown: str) -> list[str]:
    """Choose the files of a split where a folder's names tell more than one; a folder of one split is taken whole.

    Args:
        shown: the flag and what was given with it, for a refusal.

    Raises:
        UserError: if the split is not among those found, or a file belongs to none of them.
    """
    by_path = {path: split_of(path.removeprefix(folder).lstrip("/")) for path in paths}
    names = sorted({name for name in by_path.values() if name is not None})
    if split == USUAL and len(names) < 2:
        return list(paths)
    if split not in names:
        known = f"its files' names tell {', '.join(names)}" if names else "its files' names tell no split"
        remedy = "give one of these as --split" if names else "leave --split out"
        raise UserError(f"{shown}: no split {split!r}; {known}: {remedy}")
    stray = next((path for path, name in by_path.items() if name is None), None)
    if stray is not None:
        raise UserError(
            f"{shown}: {stray} belongs to none of the splits {', '.join(names)} that the other files' names tell; "
            "rename it, or give one file or folder"
        )
    return [path for path, name in by_path.items() if name == split]
