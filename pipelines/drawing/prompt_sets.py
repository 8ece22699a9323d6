"""Read prompt sets, the field's by name and others by path: captions with the groups that results break down by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from infra.base import files, json_text
from infra.base.errors import UserError
from pipelines.drawing.prompts import SIDES, Prompt, read_grouped
from pipelines.drawing.store_prompts import is_store, read_store
from pipelines.raw import pairs, source, splits

GROUPED_BY = ("category", "challenge", "style")  # the columns that group prompts by default
HPSV2_STYLES = ("anime", "concept-art", "paintings", "photo")  # a JSON file each


@dataclass(frozen=True)
class Known:
    """A prompt set of the field, known by its name."""

    rows: int
    source: str  # what file or folder it is, in words
    columns: tuple[str, ...] = ()  # the columns that it must have
    split: str = "train"  # the split to read where the source is a datasets name


KNOWN = {
    # Kirstain et al. 2023: the split of 500 different prompts.
    "pick-a-pic": Known(500, "the split validation_unique, a file or a datasets name", split="validation_unique"),
    # Yu et al. 2022, "Scaling Autoregressive Models for Content-Rich Text-to-Image Generation".
    "parti": Known(1632, "PartiPrompts.tsv", ("Category", "Challenge")),
    # Wu et al. 2023, "Human Preference Score v2".
    "hpsv2": Known(3200, "the folder of the benchmark's anime.json, concept-art.json, paintings.json and photo.json"),
}


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a set, in order."""

    name: str  # a name of KNOWN, or that of the file
    source: str  # path or datasets name
    prompts: tuple[Prompt, ...]
    rows: int  # prompts of the source; a limit may leave fewer in prompts

    @property
    def captions(self) -> list[str]:
        """Return the captions alone."""
        return [prompt.caption for prompt in self.prompts]

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns that group the prompts."""
        return list(dict.fromkeys(name for prompt in self.prompts for name in prompt.groups))

    @property
    def content(self) -> bytes:
        """Return the prompts as JSON lines, which read_grouped can read."""
        rows = map(_row, self.prompts)
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    @property
    def sha256(self) -> str:
        """Return the hash of captions and groups, in hex."""
        return hashlib.sha256(self.content).hexdigest()


def _row(prompt: Prompt) -> dict[str, object]:
    """Return a prompt as a row of a table."""
    row: dict[str, object] = {"prompt": prompt.caption}
    row.update(zip(SIDES, prompt.shape or (), strict=False))
    row.update(prompt.groups)
    return row


def read_set(given: str, columns: Sequence[str] = (), limit: int | None = None, split: str | None = None) -> PromptSet:
    """Read a prompt set.

    Args:
        given: a file that prompts.read_prompts reads, a folder of Parquet files, a latent store, a datasets name, or
            NAME=SOURCE with a name of KNOWN.
        columns: the columns that group the prompts; by default those of GROUPED_BY that the source has.
        limit: number of prompts to take, from the first; by default all.
        split: the split of a datasets name; by default that of the known set, else train.

    Raises:
        UserError: if it cannot be read, lacks a column, or has another length than the known set.
    """
    if given in KNOWN and not files.exists(files.resolve(given)):
        raise UserError(f"--prompts {given}: say where it lies, --prompts {given}=PATH: {KNOWN[given].source}")
    name, is_named, place = given.partition("=")
    known = KNOWN.get(name) if is_named else None
    where = place if known else given
    if columns and known and name == "hpsv2":
        raise UserError(
            f"--category-column {columns[0]}: {name} has no columns, its groups are styles; leave the flag out"
        )
    if known and name == "hpsv2":
        if split:
            raise UserError(
                f"--split {split}: only a datasets name has splits, and {name} is a folder; leave the flag out"
            )
        prompts = _hpsv2(where)
    elif is_store(files.resolve(where)) and not columns:
        prompts = read_store(files.resolve(where))
    else:
        wanted = tuple(dict.fromkeys(columns)) or (known.columns if known else ()) or GROUPED_BY
        needed = bool(columns) or bool(known and known.columns)
        prompts = []
        for path in _paths(where, split, known.split if known else "train"):
            prompts += read_grouped(path, wanted, needed)
    if known and len(prompts) != known.rows:
        raise UserError(
            f"--prompts {given}: {len(prompts):,} prompts, but {name} has {known.rows:,}: give {known.source}"
        )
    shown = name if known else where.rstrip("/").rsplit("/", 1)[-1]
    return PromptSet(shown, where, tuple(prompts[:limit]), len(prompts))


def _paths(where: str, split: str | None, usual: str) -> list[str]:
    path = files.resolve(where)
    here = files.exists(path)
    if not here and source.DATASET_NAME.fullmatch(where):
        return source.parquet_files(where, split or usual, "--prompts")
    if here and not files.is_file(path):
        return source.parquet_files(where, split or splits.USUAL, "--prompts")
    if split:
        raise UserError(
            f"--split {split}: only a datasets name or a folder has splits, and --prompts {where} is a file; leave the "
            "flag out"
        )
    return [path]  # read_grouped refuses a path that does not exist


def _hpsv2(where: str) -> list[Prompt]:
    """Read the HPSv2 benchmark: a JSON list of captions for each style.

    Raises:
        UserError: naming the file that is missing, or the entry that is no caption.
    """
    prompts = []
    for style in HPSV2_STYLES:
        path = files.join(files.resolve(where), f"{style}.json")
        if not files.exists(path):
            raise UserError(f"--prompts hpsv2={where}: {path} is missing; give {KNOWN['hpsv2'].source}")
        try:
            captions = json_text.parse(files.read_bytes(path))
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON ({error}); give the benchmark's own file") from error
        if not isinstance(captions, list):
            raise UserError(f"{path}: not a JSON list; give the benchmark's own file")
        for number, caption in enumerate(captions, 1):
            refusal = pairs.check_caption(caption)
            if refusal:
                raise UserError(f"{path}: entry {number}: {refusal.reason}")
            prompts.append(Prompt(caption, {"style": style}))
    return prompts
