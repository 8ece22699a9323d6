"""What other hands do to the files of a folder, and what this software then does: one table, line by line.

tests/faults/test_hands.py tries every cell, and docs/operations.md shows the table. A new file of a folder is a row
here, and a new touch a function.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Outcome = Literal["right", "repaired", "refused"]
MEANINGS: Mapping[Outcome, str] = {
    "right": "what is used is as before, and nothing needs to be said",
    "repaired": "this software makes it again or leaves out what was lost, and says so",
    "refused": "one sentence names the file and what to do",
}
OTHERS = 65534  # a user who owns nothing else


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder whose file is touched."""

    folder: Path
    file: str  # from the folder on
    partner: str  # another file of the folder, for an exchange
    older: Path  # the same folder as it was made another time, with other content

    @property
    def path(self) -> Path:
        """Return the file."""
        return self.folder / self.file


def add(place: Place) -> Path:
    """Lay a copy beside the file, as file managers and rsync do."""
    path = place.path
    shutil.copy(path, path.with_name(f"{path.stem} (1){path.suffix}"))
    return place.folder


def delete(place: Place) -> Path:
    """Delete the file."""
    place.path.unlink()
    return place.folder


def tear(place: Place) -> Path:
    """Cut the file in half."""
    os.truncate(place.path, place.path.stat().st_size // 2)
    return place.folder


def zero(place: Place) -> Path:
    """Turn the file's bytes to zeros, as a power cut or a hole does."""
    place.path.write_bytes(bytes(place.path.stat().st_size))
    return place.folder


def swap(place: Place) -> Path:
    """Exchange the file with another one of the folder."""
    other = place.folder / place.partner
    aside = place.folder.with_name("aside")
    place.path.rename(aside)
    other.rename(place.path)
    aside.rename(other)
    return place.folder


def restore_older(place: Place) -> Path:
    """Put an earlier version of the file in its place."""
    shutil.copy(place.older / place.file, place.path)
    return place.folder


def rename(place: Place) -> Path:
    """Rename the file."""
    place.path.rename(place.path.with_name(f"{place.path.name}.bak"))
    return place.folder


def link(place: Place) -> Path:
    """Move the file to another disk's folder, and leave a link."""
    elsewhere = place.folder.with_name("elsewhere")
    place.path.rename(elsewhere)
    place.path.symlink_to(elsewhere)
    return place.folder


def lock_away(place: Place) -> Path:
    """Take the right to read the file."""
    place.path.chmod(0)
    return place.folder


def move_parent(place: Place) -> Path:
    """Rename the folder above the folder."""
    parent = place.folder.parent
    moved = parent.rename(parent.with_name(f"{parent.name}-moved"))
    return moved / place.folder.name


def copy_to_host(place: Place) -> Path:
    """Copy contents alone, as to another machine: times, owners and inodes are new."""
    return Path(
        shutil.copytree(place.folder, place.folder.with_name("host") / place.folder.name, copy_function=shutil.copyfile)
    )


TOUCHES: Mapping[str, Callable[[Place], Path]] = {
    "copied beside": add,
    "gone": delete,
    "torn": tear,
    "zeroed": zero,
    "swapped": swap,
    "older copy": restore_older,
    "renamed": rename,
    "a link": link,
    "unreadable": lock_away,
    "parent moved": move_parent,
    "other host": copy_to_host,
}
USUAL: Mapping[str, Outcome] = {
    "copied beside": "right",
    "gone": "refused",
    "torn": "refused",
    "zeroed": "refused",
    "swapped": "refused",
    "older copy": "refused",
    "renamed": "refused",
    "a link": "right",
    "unreadable": "refused",
    "parent moved": "right",
    "other host": "right",
}
DOUBLED: dict[str, Outcome] = {"copied beside": "refused"}  # where a copy would count twice
NOTED: dict[str, Outcome] = dict.fromkeys(("gone", "torn", "zeroed", "older copy", "renamed"), "repaired")
JUDGED: dict[str, Outcome] = NOTED | {"gone": "right", "renamed": "right"}  # a run may have judged nothing
# Notes say by themselves whose they are.
RUN_ID: dict[str, Outcome] = {
    **dict.fromkeys(("gone", "torn", "zeroed", "renamed", "unreadable"), "right"),
    "older copy": "repaired",
}
# A copy without its index is an unfinished one, which is made again like any other.
COPIED: dict[str, Outcome] = NOTED | {"swapped": "repaired", "a link": "repaired"}
REDONE: dict[str, Outcome] = {**NOTED, "swapped": "repaired", "copied beside": "repaired"}
# A block without its mark is an unfinished one; ids alone do not change from one encoding to another.
MARKED: dict[str, Outcome] = REDONE | {"gone": "right", "renamed": "right", "older copy": "right"}
# A block without its note is one of an earlier version.
COMPARED: dict[str, Outcome] = NOTED | {"gone": "right", "renamed": "right", "swapped": "repaired"}
SHOWN: dict[str, Outcome] = {**NOTED, "swapped": "repaired", "unreadable": "repaired"}  # to people alone
# What a gallery shows is made from the images again, whatever its record says.
RECORDED: dict[str, Outcome] = {**dict.fromkeys((*NOTED, "unreadable"), "right"), "swapped": "repaired"}
NONE_WITHOUT: dict[str, Outcome] = {"gone": "right", "renamed": "right"}  # where a marker makes a thing one
INDEXED: dict[str, Outcome] = COPIED | NONE_WITHOUT | {"a link": "right", "older copy": "right"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A file of a kind of folder, and what comes of each touch."""

    kind: str
    file: str  # from the folder on
    partner: str
    unusual: Mapping[str, Outcome] = field(default_factory=dict)

    def outcome(self, touch: str) -> Outcome:
        """Return what comes of a touch."""
        return self.unusual.get(touch, USUAL[touch])


KEPT = "pairs/status=kept/part-0.parquet"
KEPT_IMAGES = "images/status=kept/part-0.parquet"  # of a store of groups
PROMPTS = "prompts/part-0.parquet"
LABELS = "labels/red"
SCORED = "part-0.parquet"
BLOCK = "block_0"
OTHER = "block_1"
DONE = ".work/prompts_done"  # marks of finished blocks
ROWS_NOTED = f"{DONE}_rows"
STEP = "checkpoints/step-0000004"
ROWS = (
    Row(kind="store", file="manifest.json", partner=KEPT),
    Row(kind="store", file=KEPT, partner=PROMPTS, unusual=DOUBLED),
    Row(kind="store", file=PROMPTS, partner=KEPT, unusual=DOUBLED),
    Row(kind="store", file="index/pairs.arrow", partner="index/captions.arrow"),
    Row(kind="store", file="index/pair_parts.arrow", partner="index/caption_parts.arrow"),
    Row(kind="store of groups", file="manifest.json", partner=KEPT_IMAGES),
    Row(kind="store of groups", file=KEPT, partner=PROMPTS, unusual=DOUBLED),
    Row(kind="store of groups", file=KEPT_IMAGES, partner=KEPT, unusual=DOUBLED),
    Row(kind="store of groups", file=PROMPTS, partner=KEPT_IMAGES, unusual=DOUBLED),
    Row(kind="store of groups", file="index/pairs.arrow", partner="index/images.arrow"),
    Row(kind="store of groups", file="index/images.arrow", partner="index/captions.arrow"),
    Row(kind="store of groups", file="index/image_parts.arrow", partner="index/caption_parts.arrow"),
    Row(
        kind="unfinished store", file=f"prompts/{BLOCK}-0.parquet", partner=f"prompts/{OTHER}-0.parquet", unusual=REDONE
    ),
    Row(kind="unfinished store", file=f"{DONE}/{BLOCK}.parquet", partner=f"{DONE}/{OTHER}.parquet", unusual=MARKED),
    Row(
        kind="unfinished store",
        file=f"{ROWS_NOTED}/{BLOCK}.json",
        partner=f"{ROWS_NOTED}/{OTHER}.json",
        unusual=COMPARED,
    ),
    *(
        row
        for kind in ("label set", "label set of groups")
        for row in (
            Row(kind=kind, file=f"{LABELS}/manifest.json", partner="manifest.json"),
            Row(kind=kind, file=f"{LABELS}/{SCORED}", partner=f"{LABELS}/quarantined/{SCORED}", unusual=DOUBLED),
            Row(kind=kind, file=f"{LABELS}/quarantined/{SCORED}", partner=f"{LABELS}/{SCORED}", unusual=DOUBLED),
        )
    ),
    *(
        row
        for kind in ("cached errors", "cached errors of groups")
        for row in (
            Row(kind=kind, file="reference/base/manifest.json", partner="manifest.json"),
            Row(kind=kind, file="reference/base/draw-0000.parquet", partner=KEPT, unusual=DOUBLED),
        )
    ),
    Row(kind="images", file="manifest.json", partner="images/part-0.parquet"),
    Row(kind="images", file="images/part-0.parquet", partner="manifest.json", unusual=DOUBLED),
    Row(kind="gallery", file="gallery/00001-0.png", partner="gallery/00002-0.png", unusual=SHOWN),
    Row(kind="gallery", file="gallery/shown.json", partner="gallery/00001-0.png", unusual=RECORDED),
    Row(kind="scores", file="scores/red/manifest.json", partner="set.json"),
    Row(kind="scores", file="scores/red/scores.parquet", partner="images/part-0.parquet"),
    Row(kind="scores", file="set.json", partner="manifest.json"),
    Row(kind="run", file="config.json", partner="result/facts.json"),
    Row(kind="run", file="run.json", partner="config.json", unusual=RUN_ID),
    Row(kind="run", file="metrics.jsonl", partner="config.json", unusual=NOTED),
    Row(kind="run", file="assessments.jsonl", partner="config.json", unusual=JUDGED),
    Row(kind="run", file=f"{STEP}/complete.json", partner="config.json", unusual=NONE_WITHOUT),
    Row(kind="run", file=f"{STEP}/network.safetensors", partner=f"{STEP}/optimizer.safetensors"),
    Row(kind="run", file="result/facts.json", partner="config.json", unusual=NONE_WITHOUT),
    Row(kind="run", file="result/pytorch_lora_weights.safetensors", partner="result/README.md", unusual=DOUBLED),
    Row(kind="cache", file="copy/numbers.npy", partner="copy/names.npy", unusual=COPIED),
    Row(
        kind="cache",
        file="copy/complete",
        partner="copy/numbers.npy",
        unusual=INDEXED,
    ),
    Row(kind="image flags", file="flags.json", partner="filter.json"),
    Row(kind="image flags", file="filter.json", partner="flags.json", unusual=NONE_WITHOUT),
    Row(kind="sweep", file="sweep.json", partner="seconds.json"),
    Row(kind="arena", file="arena.json", partner="votes.jsonl"),
    Row(kind="arena", file="votes.jsonl", partner="arena.json"),
)


def table() -> str:
    """Lay the table out as docs/operations.md shows it."""
    lines = [f"| folder | file | {' | '.join(TOUCHES)} |", "|---" * (2 + len(TOUCHES)) + "|"]
    lines += [f"| {row.kind} | `{row.file}` | {' | '.join(map(row.outcome, TOUCHES))} |" for row in ROWS]
    return "\n".join(lines)
