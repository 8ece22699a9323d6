"""Steps of encode_reference.py, knowing no engine: visits to pairs, or to images of groups, to the errors there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from infra.base import models
from infra.base.errors import UserError
from training.backbones.backbone import open_backbone
from training.backbones.schedule_config import ScheduleConfig
from training.data import applied_labels, image_batches, loader
from training.data.opened import open_store
from training.layout.base_precision import lower
from training.method.forward import NetworkReference
from training.reference import reference_errors

Visited = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]  # timesteps [n], errors [columns, n]


class VisitPairs:
    """Compute the errors of a frozen reference on a store's pairs at training's draws.

    Args:
        model: the reference.
        schedule: which timesteps are drawn.
        path: of the store.
        cache: folder for what a node keeps of the store.
        batch_size: pairs per forward pass.
        base_precision: of the reference's weights, as training/layout/base_precision.py has them.
    """

    visited = "pair"
    columns: tuple[str, ...] = ("error_0", "error_1")

    def __init__(
        self,
        model: models.Model,
        schedule: ScheduleConfig,
        path: str,
        cache: str | None,
        seed: int,
        caption_dropout: float,
        batch_size: int,
        precision: str,
        base_precision: str = "float32",
    ) -> None:
        self.data = applied_labels.as_stored(open_store(path, cache))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.device = device
        self.hardware = reference_errors.hardware(device)
        self.backbone = open_backbone(model.folder(), schedule)
        network = self.backbone.load_network().requires_grad_(False)
        network = lower(network, base_precision, device)
        self.reference = NetworkReference(self.backbone, network, getattr(torch, precision))
        self.seed = seed
        self.caption_dropout = caption_dropout
        self.batch_size = batch_size
        self.per_pass = batch_size
        self.ahead = loader.passes_ahead(self.data, batch_size)
        self.known_ids = self.data.pairs.pair_ids

    def __call__(self, visits: pa.Table) -> pa.Table:
        """Add timestep, errors and hardware to visit, id and draw.

        Raises:
            UserError: naming the pair or image whose errors are not finite.
        """
        draws = visits["draw"].to_numpy()
        ids = visits[f"{self.visited}_id"].to_numpy()
        rows = np.searchsorted(self.known_ids, ids)
        timesteps = np.empty(len(rows), np.int32)
        errors = np.empty((len(self.columns), len(rows)), np.float32)
        passes = list(self._passes(rows, draws))
        results = loader.read_ahead(passes, lambda one: self.begin_visit(rows[one[1]], one[0]), self.ahead)
        for (_, places), (times, made) in zip(passes, results, strict=True):
            timesteps[places] = times
            errors[:, places] = made
        bad = np.flatnonzero(~np.isfinite(errors).all(0))
        if len(bad):
            raise UserError(
                f"the reference's errors of {self.visited} {ids[bad[0]]}, draw {draws[bad[0]]}, are not finite"
            )
        columns = {"timestep": timesteps} | dict(zip(self.columns, errors, strict=True))
        for name, values in columns.items():
            visits = visits.append_column(name, pa.array(values))
        return visits.append_column("hardware", pa.array([self.hardware] * len(rows), pa.string()))

    def _passes(
        self, rows: npt.NDArray[np.int64], draws: npt.NDArray[np.int32]
    ) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
        """Cut visits into forward passes, each of one draw and one shape; yields the draw and the places in rows."""
        for draw in np.unique(draws):
            for places in self._by_bucket(rows, np.flatnonzero(draws == draw)):
                for start in range(0, len(places), self.per_pass):
                    yield int(draw), places[start : start + self.per_pass]

    def _by_bucket(self, rows: npt.NDArray[np.int64], places: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
        """Cut places of rows into those of each bucket: a pass has one shape."""
        buckets = self.data.buckets(rows[places])
        return [places] if buckets is None else [places[buckets == one] for one in np.unique(buckets)]

    def begin_visit(self, rows: npt.NDArray[np.int64], draw: int) -> Callable[[], Visited]:
        """Begin to read up to batch_size rows of one shape; what is returned waits for them and makes the pass.

        Its errors are [2, n], slot 0 first. Every pass has the full batch's shape, because an error's last bits depend
        on it; on its company they do not.
        """
        padded = np.resize(rows, self.batch_size)
        read = loader.begin(self.data, padded, self.seed, draw, self.backbone.timestep, self.caption_dropout)

        def finish() -> Visited:
            batch = read()
            errors = self.reference.errors(batch.to(self.device)).cpu().numpy()
            return batch.timesteps.numpy()[: len(rows)], errors[:, : len(rows)]

        return finish


class VisitImages(VisitPairs):
    """Compute the errors of a frozen reference on the images of a store of groups, each once for all its pairs.

    A pass has twice batch_size images, as many as a pass over pairs, because an error's last bits depend on it.
    """

    visited = "image"
    columns = ("error",)

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        groups = self.data.pairs.groups
        assert groups is not None
        self.per_pass = 2 * self.batch_size
        self.known_ids = groups.image_ids
        images, shown_by = groups.images_of_pairs()
        self.shown_by = np.zeros(len(groups.image_ids), np.int64)
        self.shown_by[images] = shown_by

    def begin_visit(self, rows: npt.NDArray[np.int64], draw: int) -> Callable[[], Visited]:
        """Begin to read up to per_pass images of the store; their errors are [1, n]."""
        padded = np.resize(rows, self.per_pass)
        read = image_batches.begin_images(
            self.data.pairs,
            padded,
            self.shown_by[padded],
            self.seed,
            draw,
            self.backbone.timestep,
            self.caption_dropout,
        )

        def finish() -> Visited:
            images = read()
            errors = self.reference.image_errors(images.to(self.device)).cpu().numpy()
            return images.timesteps.numpy()[: len(rows)], errors[None, : len(rows)]

        return finish
