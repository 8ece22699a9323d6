"""Step of encode_reference.py, knowing no engine: visits to pairs to the reference's errors there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from infra.base import models
from infra.base.errors import UserError
from training.backbones.backbone import open_backbone
from training.backbones.schedule_config import ScheduleConfig
from training.data import loader
from training.data.opened import open_store
from training.method.forward import NetworkReference
from training.reference import reference_errors


class VisitPairs:
    """Compute the errors of a frozen reference on a store's pairs at training's draws.

    Args:
        model: the reference.
        schedule: which timesteps are drawn.
        path: of the store.
        cache: folder for what a node keeps of the store.
        batch_size: pairs per forward pass.
    """

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
    ) -> None:
        self.data = loader.as_stored(open_store(path, cache))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.device = device
        self.hardware = reference_errors.hardware(device)
        self.backbone = open_backbone(model.folder(), schedule)
        network = self.backbone.load_network().to(device).requires_grad_(False)
        self.reference = NetworkReference(self.backbone, network, getattr(torch, precision))
        self.seed = seed
        self.caption_dropout = caption_dropout
        self.batch_size = batch_size

    def __call__(self, visits: pa.Table) -> pa.Table:
        """Add timestep, error_0, error_1 and hardware to visit, pair_id and draw.

        Raises:
            UserError: naming the pair whose errors are not finite.
        """
        draws = visits["draw"].to_numpy()
        ids = visits["pair_id"].to_numpy()
        rows = np.searchsorted(self.data.pairs.pair_ids, ids)
        timesteps = np.empty(len(rows), np.int32)
        errors = np.empty((2, len(rows)), np.float32)
        for draw in np.unique(draws):
            places = np.flatnonzero(draws == draw)
            for start in range(0, len(places), self.batch_size):
                part = places[start : start + self.batch_size]
                timesteps[part], errors[:, part] = self.visit(rows[part], int(draw))
        bad = np.flatnonzero(~np.isfinite(errors).all(0))
        if len(bad):
            raise UserError(f"the reference's errors of pair {ids[bad[0]]}, draw {draws[bad[0]]}, are not finite")
        columns = {"timestep": timesteps, "error_0": errors[0], "error_1": errors[1]}
        for name, values in columns.items():
            visits = visits.append_column(name, pa.array(values))
        return visits.append_column("hardware", pa.array([self.hardware] * len(rows), pa.string()))

    def visit(self, rows: npt.NDArray[np.int64], draw: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Return timesteps [n] and errors [2, n] float32 of up to batch_size rows of the store, slot 0 first.

        Every pass has the full batch's shape, because an error's last bits depend on it; on its company they do not.
        """
        padded = np.resize(rows, self.batch_size)
        batch = loader.assemble(self.data, padded, self.seed, draw, self.backbone.timestep, self.caption_dropout)
        errors = self.reference.errors(batch.to(self.device)).cpu().numpy()
        return batch.timesteps.numpy()[: len(rows)], errors[:, : len(rows)]
