"""What the arena shows: two models' images of the same captions and noise, in which order, on which side.

Order and side are functions of (seed, rater, pair), so a rater goes on where they stopped, on any day and any server.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from infra.base.errors import UserError
from pipelines.drawing.image_flags import blurred, flag_reasons
from pipelines.drawing.image_sets import read_images
from pipelines.judging.comparison import Images, check_comparable, find_images
from pipelines.judging.rank_pairs import drawing_of, image_uid, read_contents
from pipelines.raw.decode import BadImage, open_image
from pipelines.raw.pairs import hash64


@dataclass(frozen=True)
class Pair:
    """The two models' images of one caption and start noise."""

    image_id: int  # the same in both sets
    caption: str
    image_index: int


@dataclass(frozen=True)
class Sets:
    """Two matched sets of images: the base's, and the policy's that is set against it."""

    models: tuple[Images, Images]
    pairs: Sequence[Pair]

    @property
    def names(self) -> tuple[str, str]:
        """Return the models' names, or the images' folders where those are equal."""
        base = str(self.models[0].identity.get("model", "true renders"))
        policy = str(self.models[1].identity.get("model", "true renders"))
        return (base, policy) if base != policy else (self.models[0].folder, self.models[1].folder)

    def uids(self, pair: Pair) -> tuple[str, str]:
        """Name a pair's images, the base's and the policy's."""
        base, policy = self.models
        return (
            image_uid(drawing_of(base.identity), pair.image_id),
            image_uid(drawing_of(policy.identity), pair.image_id),
        )


def read_sets(paths: tuple[str, str]) -> Sets:
    """Read which images two folders of generate.py hold, and match them.

    Raises:
        UserError: if one is unfinished, or they differ in more than the model.
    """
    base = find_images(paths[0])
    policy = find_images(paths[1])
    if base.folder == policy.folder:
        raise UserError(f"--images {paths[0]} {paths[1]}: both are the same folder; give two models' images")
    check_comparable(base, policy)
    columns = ["image_id", "caption", "image_index", "image_seed"]
    tables = [read_images(one.folder, columns=columns).select(columns) for one in (base, policy)]
    if not tables[0].equals(tables[1]):
        raise UserError(
            f"{base.folder} and {policy.folder} hold images of different captions or seeds; "
            "draw both with the same --prompts, --limit, --images-per-prompt and --seed"
        )
    rows = tables[0].drop_columns(["image_seed"]).to_pylist()
    return Sets((base, policy), [Pair(**row) for row in rows])


def choose(pairs: Sequence[Pair], seed: int, count: int) -> list[Pair]:
    """Choose which pairs all raters judge: first images of prompts before second ones, at random among equals.

    A larger count begins with the same pairs.
    """
    drawn = sorted(pairs, key=lambda pair: (pair.image_index, _number("chosen", seed, pair)))
    return drawn[:count]


def order(pairs: Sequence[Pair], seed: int, rater: str) -> list[int]:
    """Return the positions of pairs in the order in which a rater sees them."""
    return sorted(range(len(pairs)), key=lambda position: _number("order", seed, pairs[position], rater))


def left_model(pair: Pair, seed: int, rater: str) -> int:
    """Return which model's image a rater sees on the left, 0 the base's or 1 the policy's."""
    return _number("left", seed, pair, rater) % 2


def _number(purpose: str, seed: int, pair: Pair, rater: str = "") -> int:
    return hash64(purpose.encode(), str(seed).encode(), str(pair.image_id).encode(), rater.encode())


class Contents:
    """Random access to the images of pairs, copied into an unnamed file that vanishes with the process."""

    def __init__(self, sets: Sets, pairs: Sequence[Pair], folder: str) -> None:
        """Copy and check the images.

        Args:
            folder: where the file lies, since it may grow large.

        Raises:
            UserError: if an image is gone or cannot be decoded, or the two images of a pair differ in size, which
                would tell the models apart.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed by close)
        self._places: dict[tuple[int, int], tuple[int, int]] = {}
        self._flagged = {image_id for images in sets.models for image_id in flag_reasons(images.folder)}
        wanted = {pair.image_id for pair in pairs}
        sizes: dict[tuple[int, int], Any] = {}
        for model, images in enumerate(sets.models):
            for image_id, content in read_contents(images.folder, wanted):
                try:
                    sizes[image_id, model] = open_image(content).size
                except BadImage as error:
                    raise UserError(f"{images.folder}: image_id {image_id}: {error}") from error
                self._places[image_id, model] = (self._file.tell(), len(content))
                self._file.write(content)
        self._file.flush()
        for pair in pairs:
            base = sizes.get((pair.image_id, 0))
            policy = sizes.get((pair.image_id, 1))
            if base is None or policy is None:
                folder = sets.models[0 if base is None else 1].folder
                raise UserError(f"{folder}: the image with image_id {pair.image_id} is gone; draw the images again")
            if base != policy:
                raise UserError(
                    f"image_id {pair.image_id} is {base[0]}x{base[1]} pixels in {sets.models[0].folder} and "
                    f"{policy[0]}x{policy[1]} in {sets.models[1].folder}, which would tell the models apart; "
                    "draw both at one size"
                )

    def drawn(self, pair: Pair, model: int) -> bytes:
        """Return a model's image as it was drawn."""
        start, size = self._places[pair.image_id, model]
        return os.pread(self._file.fileno(), size, start)

    def is_flagged(self, pair: Pair) -> bool:
        """Say whether either image of a pair is flagged; saying which one would reveal something about the models."""
        return pair.image_id in self._flagged

    def shown(self, pair: Pair, model: int, revealed: bool = False) -> bytes:
        """Return a model's image as PNG of its pixels alone: metadata and encoder would tell the models apart.

        Args:
            revealed: not blurred, though the pair is flagged.
        """
        if self.is_flagged(pair) and not revealed:
            return blurred(self.drawn(pair, model))
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(open_image(self.drawn(pair, model)))).save(buffer, format="PNG")
        return buffer.getvalue()

    def close(self) -> None:
        """Close the file, which removes it."""
        self._file.close()
