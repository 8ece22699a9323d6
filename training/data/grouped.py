"""A store of groups, opened by its index: pairs that name two images, of which each is read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipelines.latents.schemas import Values
from training.data.stored import Mirrored, Read, Rows
from training.method.draws import Draw, image_posterior

SLOTS = (0, 1)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The images of a store of groups, in the order of their ids, and which of them each pair shows."""

    images: Rows  # of the store's columns of images, each [C or 2C, H, W]
    image_ids: npt.NDArray[np.int64]  # [m], ascending, memory-mapped
    shown: npt.NDArray[np.uint32]  # [n, 2], rows of images by pair and slot
    pair_groups: npt.NDArray[np.int64]  # [n], the group of each pair: the key of its draws

    def images_of_pairs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the images that stand in a pair, as rows of images, ascending, and for each a pair that shows it."""
        rows, first = np.unique(self.shown, return_index=True)
        return rows.astype(np.int64), first // len(SLOTS)

    def with_posteriors(
        self,
        draws: Sequence[Draw],
        rows: npt.NDArray[np.int64],
        seed: int,
        epoch: int,
        shape: tuple[int, int, int],
    ) -> list[Draw]:
        """Give the draws of some pairs the posterior noise of their images: each image's own, in every pair."""
        both = [
            np.stack([image_posterior(seed, epoch, int(self.image_ids[image]), shape) for image in pair])
            for pair in self.shown[rows]
        ]
        return [replace(drawn, posterior=noise) for drawn, noise in zip(draws, both, strict=True)]


@dataclass(frozen=True)
class ShownImages:
    """The latents of pairs of a store of groups, as a store of pairs has them: two columns, of slot 0 and slot 1."""

    groups: Groups

    @property
    def far(self) -> bool:
        """Say whether a row comes from S3."""
        return self.groups.images.far

    def begin(self, rows: npt.NDArray[np.int64], mirrored: Mirrored | None = None) -> Read:
        """Begin to read the images of pairs, each once; what is returned has the columns of a store of pairs.

        Args:
            mirrored: equal for the pairs of a group, as they share their draw.
        """
        wanted, first, places = np.unique(self.groups.shown[rows], return_index=True, return_inverse=True)
        of_images = None if mirrored is None else mirrored[first // len(SLOTS)]
        read = self.groups.images.begin(wanted.astype(np.int64), of_images)
        by_slot = places.reshape(len(rows), len(SLOTS))

        def wait() -> Mapping[str, Values]:
            images = read()
            return {
                name.replace("latents", f"latents_{slot}"): values[by_slot[:, slot]]
                for name, values in images.items()
                for slot in SLOTS
            }

        return wait
