"""The prompt sets of the field by name, and anybody's own: captions with the groups that results break down by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from infra.base import files
from infra.base.errors import UserError
from pipelines.drawing.prompts import Prompt, read_grouped
from pipelines.raw import pairs, source

GROUPED_BY = ("category", "challenge", "style")  # columns that group prompts, where nobody names others
HPSV2_STYLES = ("anime", "concept-art", "paintings", "photo")  # a JSON file each


@dataclass(frozen=True)
class Known:
    """A set that has a name."""

    rows: int
    told: str  # what its file is
    columns: tuple[str, ...] = ()  # that it must have
    split: str = "train"  # of a datasets name


KNOWN = {
    # Kirstain et al. 2023: the split whose 500 prompts differ.
    "pick-a-pic": Known(500, "the split validation_unique, a file or a datasets name", (), "validation_unique"),
    # Yu et al. 2022, "Scaling Autoregressive Models for Content-Rich Text-to-Image Generation".
    "parti": Known(1632, "PartiPrompts.tsv", ("Category", "Challenge")),
    # Wu et al. 2023, "Human Preference Score v2".
    "hpsv2": Known(3200, "the folder of the benchmark's anime.json, concept-art.json, paintings.json and photo.json"),
}


@dataclass(frozen=True)
class PromptSet:
    """Prompts in their order."""

    name: str  # of KNOWN, or the file's
    source: str  # as it was given, without the name
    prompts: tuple[Prompt, ...]
    rows: int  # that the source has; more than prompts where a limit was given

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
        """Return the prompts as JSON lines, which read_grouped reads back."""
        rows = ({"prompt": prompt.caption, **prompt.groups} for prompt in self.prompts)
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    @property
    def sha256(self) -> str:
        """Return the hash of captions and groups, in hex."""
        return hashlib.sha256(self.content).hexdigest()


def read_set(given: str, columns: Sequence[str] = (), limit: int | None = None, split: str | None = None) -> PromptSet:
    """Read a set of prompts.

    Args:
        given: a file as prompts.read_prompts takes it, a folder of Parquet files, a datasets name, or NAME=SOURCE with
            a name of KNOWN.
        columns: those that group the prompts; by default GROUPED_BY, as far as they are there.
        limit: take the first so many only, of the whole set.
        split: of a datasets name; by default the known set's own.

    Raises:
        UserError: if it cannot be read, lacks a column, or is not as long as the set that it is said to be.
    """
    if given in KNOWN and not files.exists(files.resolve(given)):
        raise UserError(f"--prompts {given}: say where it lies, --prompts {given}=PATH: {KNOWN[given].told}")
    name, is_named, place = given.partition("=")
    known = KNOWN.get(name) if is_named else None
    where = place if known else given
    if columns and known and name == "hpsv2":
        raise UserError(f"--category-column {columns[0]}: {name} has no columns; its results break down by style")
    if known and name == "hpsv2":
        if split:
            raise UserError(f"--split {split}: is of a datasets name; {name} is a folder")
        prompts = _hpsv2(where)
    else:
        wanted = tuple(dict.fromkeys(columns)) or (known.columns if known else ()) or GROUPED_BY
        needed = bool(columns) or bool(known and known.columns)
        prompts = []
        for path in _paths(where, split, known.split if known else "train"):
            prompts += read_grouped(path, wanted, needed)
    if known and len(prompts) != known.rows:
        raise UserError(f"--prompts {given}: {len(prompts):,} prompts, but {name} has {known.rows:,}: {known.told}")
    shown = name if known else where.rstrip("/").rsplit("/", 1)[-1]
    return PromptSet(shown, where, tuple(prompts[:limit]), len(prompts))


def _paths(where: str, split: str | None, usual: str) -> list[str]:
    path = files.resolve(where)
    here = files.exists(path)
    if not here and source.DATASET_NAME.fullmatch(where):
        return source.parquet_files(where, split or usual, "--prompts")
    if split:
        raise UserError(f"--split {split}: is of a datasets name; --prompts {where} is a path")
    # What is not there read_grouped refuses.
    return source.parquet_files(where, usual, "--prompts") if here and not files.is_file(path) else [path]


def _hpsv2(where: str) -> list[Prompt]:
    """Read the benchmark: for each style a JSON list of texts.

    Raises:
        UserError: naming the file, and the entry, that is missing or no text.
    """
    prompts = []
    for style in HPSV2_STYLES:
        path = files.join(files.resolve(where), f"{style}.json")
        if not files.exists(path):
            raise UserError(f"--prompts hpsv2={where}: {path} is missing; give {KNOWN['hpsv2'].told}")
        try:
            captions = json.loads(files.read_bytes(path))
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON ({error})") from error
        if not isinstance(captions, list):
            raise UserError(f"{path}: not a JSON list")
        for number, caption in enumerate(captions, 1):
            if refusal := pairs.check_caption(caption):
                raise UserError(f"{path}: entry {number}: {refusal.reason}")
            prompts.append(Prompt(caption, {"style": style}))
    return prompts
