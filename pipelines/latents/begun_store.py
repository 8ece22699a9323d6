"""Where a latent store may begin, and from which source it was begun; for the encoder and its dry run alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from infra.base import files, tables
from infra.base.errors import UserError
from pipelines.latents import store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.raw import contents, source

THEIRS = (*source.IMAGES, *source.COMPARISONS, tables.SUFFIX, source.ARROW)  # ends of names, in any case


def refuse_place(destination: str, given: str) -> None:
    """Refuse to begin a store among other people's images and tables, or in its source; one that was begun goes on.

    Args:
        given: the source, as it was given.

    Raises:
        UserError: naming the source, or the first file that is of no store.
    """
    if any(files.exists(files.join(destination, name)) for name in (store.MANIFEST, store.WORK)):
        return
    if f"{destination}/".startswith(f"{source.told_apart(given)}/"):
        raise UserError(
            f"--store {destination}: lies in --source {given}, so the store's files would be read as raw pairs, too; "
            "give a folder outside it"
        )
    theirs = [path for path in files.list_files(destination) if path.lower().endswith(THEIRS)]
    if theirs:
        first = theirs[0].removeprefix(f"{destination}/")
        others = f" and {len(theirs) - 1:,} more" if len(theirs) > 1 else ""
        raise UserError(
            f"--store {destination}: holds images or tables that are of no store ({first}{others}); give a folder of "
            "the store's own"
        )


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
