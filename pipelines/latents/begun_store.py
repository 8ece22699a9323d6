"""Where a latent store may begin, and what it was begun with; for the encoder and its dry run alike."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from infra.base import files, records, tables
from infra.base.errors import UserError
from pipelines.engine import resumable
from pipelines.latents import encode_config, store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.raw import contents, source

if TYPE_CHECKING:
    from pipelines.latents.safety import Filter

THEIRS = (*source.IMAGES, *source.COMPARISONS, tables.SUFFIX, source.ARROW)  # ends of names, in any case
MOST_FOLDERS = 100  # that are looked into: a bucket may hold any number


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What a store was begun with, as the store itself says."""

    destination: str
    settings: Mapping[str, Any] | None  # by flag, and the fingerprints; None where none was begun
    source_files: contents.Noted  # what the source's files held; empty where nothing was noted


def refuse_place(destination: str, given: str) -> None:
    """Refuse to begin a store among other people's images and tables, or in its source; one that was begun goes on.

    What is left of a store that lost its manifest is told as that.

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
    if store.holds_pairs(destination):
        raise UserError(
            f"{destination}: has pairs, but neither manifest.json nor a record of progress; "
            "restore manifest.json from a copy, or give another --store"
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


def begun(destination: str) -> Begun:
    """Read what a store was begun with, whether it is finished or not; nothing where none was begun.

    Raises:
        UserError: naming the file that should say it and does not.
    """
    if files.exists(files.join(destination, store.MANIFEST)):
        return begun_of(destination, store.read_manifest(destination))
    return Begun(
        destination=destination,
        settings=_noted(destination, resumable.NOTED),
        source_files=_noted(destination, store.SOURCE) or {},
    )


def begun_of(destination: str, finished: store.Manifest) -> Begun:
    """Return what a finished store was begun with."""
    settings = {**finished.config, **finished.safety, "fingerprints": dict(finished.fingerprints)}
    return Begun(destination=destination, settings=settings, source_files=finished.source_files)


def _noted(destination: str, name: str) -> dict[str, Any] | None:
    path = files.join(destination, store.WORK, name)
    return records.read_record(path) if files.exists(path) else None


def refuse_other_settings(
    before: Begun, config: EncodeConfig, chosen: Filter, fingerprints: Mapping[str, str] | None = None
) -> None:
    """Refuse settings, or a source, that a store was not begun with; where none was begun, all do.

    Args:
        chosen: the filter that config names.
        fingerprints: of the model's frozen parts, by name, where they are known.

    Raises:
        UserError: naming each setting that differs, as it was and as it is now.
    """
    if before.settings is None:
        return
    spelled = _with_source_as_begun(config, before.settings, before.source_files)
    encode_config.refuse_other_settings(before.destination, before.settings, spelled, chosen, fingerprints)


def _with_source_as_begun(config: EncodeConfig, before: Mapping[str, Any], noted: contents.Noted) -> EncodeConfig:
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


def refuse_changed_source(before: Begun, config: EncodeConfig, now: contents.Noted) -> None:
    """Refuse a source whose files hold something else than when a store was begun from it.

    Args:
        now: what the files hold by now.

    Raises:
        UserError: naming the first file that is new, gone or changed.
    """
    place = f"--source {config.source}, from which {before.destination} was begun"
    contents.refuse_changed(before.source_files, now, place, f"{contents.REMEDY} --store")
