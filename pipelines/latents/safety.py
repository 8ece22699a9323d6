"""The filter of the paper's Ethics section: captions by a word list, images by the safety checker's concepts.

It only flags. The encoder quarantines flagged pairs at the stage `safety`; flag_images.py marks images of a folder.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image

from infra.base import disk_errors, files
from infra.base.errors import UserError
from pipelines.latents.safety_config import SafetyConfig

if TYPE_CHECKING:
    from labelers.clips.safety_checker import CheckerName, SafetyChecker

STAGE = "safety"  # of quarantined pairs
DEFAULT = "default"
DEFAULT_LIST = Path(__file__).parent / "blocklist.txt"
# Shown as nothing, and no control characters (Cf, Cc) to Unicode: joiners, fillers and variation selectors.
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Cut a text into words without case, width, ligatures and invisible characters: NFKC, case-folded, NFKC again."""
    printed = "".join(letter for letter in unicodedata.normalize("NFKC", text) if not _is_control(letter))
    visible = INVISIBLE.sub("", printed)
    return WORD.findall(unicodedata.normalize("NFKC", visible.casefold()))


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cf", "Cc") and not letter.isspace()


@dataclass(frozen=True)
class Blocklist:
    """Words and phrases that flag a caption."""

    lines: Mapping[tuple[str, ...], int]  # an entry's words to its line
    sha256: str  # of the file

    def find(self, caption: str) -> int | None:
        """Return the line of the first entry whose words stand in a caption, side by side; None where none does."""
        spoken = words(caption)
        lengths = {len(entry) for entry in self.lines}
        runs = (tuple(spoken[at : at + length]) for at in range(len(spoken)) for length in sorted(lengths))
        return next((self.lines[run] for run in runs if run in self.lines), None)

    def reason(self, caption: str) -> str | None:
        """Say why a caption is flagged: by which line of the list, not by which word of whose caption."""
        line = self.find(caption)
        return None if line is None else f"prompt: word list, line {line}"


def read_blocklist(path: str) -> Blocklist:
    """Read a word list: UTF-8, an entry a line; empty lines and those that begin with # do not count.

    Raises:
        UserError: if it cannot be read, has no entry, or one without a letter or digit.
    """
    place = str(DEFAULT_LIST) if path == DEFAULT else files.resolve(path)
    try:
        content = files.read_bytes(place)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = disk_errors.reason(error) if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"--prompt-blocklist {path}: {what}") from error
    lines: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        entry = tuple(words(line))
        if not entry:
            raise UserError(f"--prompt-blocklist {path}: line {number} has no letter or digit")
        lines.setdefault(entry, number)
    if not lines:
        raise UserError(f"--prompt-blocklist {path}: no word in it")
    return Blocklist(lines, hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class Filter:
    """A filter as it is sent to workers; without list and checker it flags nothing."""

    blocklist: Blocklist | None
    checker: CheckerName | None  # at its commit
    identity: Mapping[str, str]  # flag to hash of what it named; empty where there is no filter

    def load_checker(self, batch_size: int) -> SafetyChecker | None:
        """Make the checker on this node, where there is one; its weights are read at the first image."""
        if not self.checker:
            return None
        from labelers.clips.safety_checker import SafetyChecker

        return SafetyChecker(self.checker.files(), batch_size)


def make_filter(config: SafetyConfig) -> Filter:
    """Read the word list and check the checker's files.

    Raises:
        UserError: naming the flag or file that does not do.
    """
    if config.safety_revision and not config.safety_checker:
        raise UserError(f"--safety-revision {config.safety_revision}: has no meaning without --safety-checker")
    identity: dict[str, str] = {}
    blocklist = checker = None
    if config.prompt_blocklist:
        blocklist = read_blocklist(config.prompt_blocklist)
        identity["prompt_blocklist"] = blocklist.sha256
    if config.safety_checker:
        from labelers.clips.safety_checker import SafetyChecker, checker_name

        checker = checker_name(config.safety_checker, config.safety_revision).pinned()
        loaded = SafetyChecker(checker.files(), batch_size=1)
        loaded.check()
        identity["safety_checker"] = loaded.fingerprint
    return Filter(blocklist, checker, identity)


def concept_reason(concept: int) -> str:
    """Say why an image is flagged; the concepts have numbers only."""
    return f"image: safety concept {concept}"


class CheckPairs:
    """Quarantines decoded rows of which any image shows a concept; what is checked is what would be stored.

    Args:
        columns: with the images' pixels, two of a pair.
    """

    def __init__(self, checker: SafetyChecker, columns: Sequence[str] = ("pixels_0", "pixels_1")) -> None:
        self.checker = checker
        self.columns = columns

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Change status, stage and reason of flagged pairs, as CheckAndDecode gives them."""
        columns = {name: decoded[name].to_pylist() for name in ("status", "stage", "reason")}
        kept = [row for row, status in enumerate(columns["status"]) if status == "kept"]
        rows = decoded.take(pa.array(kept, pa.int64()))
        sides = list(zip(rows["height"].to_pylist(), rows["width"].to_pylist(), strict=True))
        scores = []
        for name in self.columns:
            contents = zip(rows[name].to_pylist(), sides, strict=True)
            images = [Image.fromarray(np.frombuffer(content, np.uint8).reshape(*side, 3)) for content, side in contents]
            scores.append(self.checker.scores(images))
        for row, both in zip(kept, np.maximum.reduce(scores), strict=True):
            if both.max() > 0:
                columns["status"][row] = "quarantined"
                columns["stage"][row] = STAGE
                columns["reason"][row] = concept_reason(int(np.argmax(both)))
        for name, values in columns.items():
            decoded = decoded.set_column(decoded.schema.get_field_index(name), name, pa.array(values, pa.string()))
        return decoded
