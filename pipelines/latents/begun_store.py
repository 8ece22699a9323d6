"""Where a latent store may begin, and from which source it was begun; for the encoder and its dry run alike."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from infra.base import files, tables
from infra.base.errors import UserError
from pipelines.latents import store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.raw import contents, source

THEIRS = (*source.IMAGES, *source.COMPARISONS, tables.SUFFIX, source.ARROW)  # ends of names, in any case
MOST_FOLDERS = 100  # that are looked into: a bucket may hold any number


def refuse_place(destination: str, given: str) -> None:
    """Refuse to begin a store among other people's images and tables, or in its source; one that was begun goes on.

    Args:
        given: the source, as it was given.

    Raises:
        UserError: naming the source, or a file that is of no store.
    """
    if files.is_file(destination):
        raise UserError(f"--store {destination}: is a file; give a folder")
    if any(files.exists(files.join(destination, name)) for name in (store.MANIFEST, store.WORK)):
        return
    if _is_read_as_source(destination, source.told_apart(given)):
        raise UserError(
            f"--store {destination}: lies in --source {given}, so the store's files would be read as raw pairs, too; "
            "give a folder outside it"
        )
    near = itertools.islice(files.by_folder(destination), MOST_FOLDERS)
    theirs = next((path for paths in near for path in paths if path.lower().endswith(THEIRS)), None)
    if theirs is not None:
        raise UserError(
            f"--store {destination}: holds images or tables that are of no store (for example "
            f"{theirs.removeprefix(f'{destination}/')}); give a folder of the store's own"
        )


def _is_read_as_source(destination: str, where: str) -> bool:
    """Say whether a reader of the source would find the store's files, by their names or by where links lead."""
    is_on_disk = os.path.isabs(destination) and os.path.isabs(where)
    spelled = [(destination, where)]
    if is_on_disk and ".." in f"{destination}/{where}".split("/"):
        spelled = []
    if is_on_disk:
        spelled.append((os.path.realpath(destination), os.path.realpath(where)))
    return any(_is_listed(*names) for names in spelled)


def _is_listed(path: str, folder: str) -> bool:
    if not f"{path}/".startswith(f"{folder}/"):
        return False
    is_replacement = f"{path}/".startswith(f"{folder}/{source.REPLACEMENT}/")  # whose files take the others' place
    return is_replacement or not tables.is_passed_over(path, folder)


def with_source_as_begun(config: EncodeConfig, before: Mapping[str, Any], noted: contents.Noted) -> EncodeConfig:
    """Name the source as a store did when it was begun, where it is the same: at the same place, or of equal content.

    Args:
        before: the settings that the store was begun with.
        noted: what the files of its source held.
    """
    was = before.get("source")
    if was is None or was == config.source:
        return config
    is_same = source.told_apart(was) == source.told_apart(config.source)
    if not is_same and noted:
        try:
            now = contents.contents_of(config.source, source.parquet_files(config.source, config.split))
        except (UserError, OSError):  # there is none, and the settings say from where it was
            return config
        is_same = contents.digest(noted) == contents.digest(now)
    return replace(config, source=was) if is_same else config
