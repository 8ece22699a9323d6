"""Reference errors of a store of groups: one an image and draw, equal to the bit to those of training's pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.group_material import compact, grouped_rows, write_rows
from support.material import MODEL

from infra.base import engines, models
from pipelines.latents import encode_latents, store_check
from pipelines.latents.encode_config import EncodeConfig, Posterior
from training.backbones.backbone import Backbone
from training.data import applied_labels, loader
from training.data.opened import open_store
from training.reference import encode_reference, reference_errors
from training.reference.reference_config import ReferenceConfig
from training.reference.visit_pairs import VisitPairs

pytestmark = pytest.mark.slow

BATCH = 4


def encoded(folder: Path, posterior: Posterior, flip: bool) -> str:
    """Encode two groups of four images: 12 pairs."""
    raw = write_rows(folder / "raw", compact(grouped_rows(2, 4)))
    path = str(folder / "store")
    with engines.asking("local"):
        encode_latents.main(EncodeConfig(source=str(raw), store=path, posterior=posterior, flip=flip))
    return path


@pytest.mark.parametrize(("posterior", "flip"), [("sample", False), ("moments", True)])
def test_an_images_error_is_that_of_all_its_pairs(
    tmp_path: Path, posterior: Posterior, flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encoded(tmp_path, posterior, flip)
    asked: list[int] = []
    config = ReferenceConfig(store=path, draws=2, batch_size=BATCH)
    inline = VisitPairs(
        models.Model(str(MODEL)), config.schedule, path, None, config.seed, config.caption_dropout, BATCH, "float32"
    )
    own = type(inline.backbone).predict

    def noted(self: Backbone, network: torch.nn.Module, noisy: torch.Tensor, *rest: object) -> torch.Tensor:
        asked.append(len(noisy))
        return own(self, network, noisy, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(type(inline.backbone), "predict", noted)
    with engines.asking("local"):
        encode_reference.main(config)
    # 8 images at 2 draws are 16 errors, in 2 passes of 2 * 4 images. The 12 pairs would have taken 48.
    assert asked == [8, 8]
    manifest = reference_errors.read_manifest(path, "base")
    assert (manifest.draws, manifest.images, manifest.pairs) == (2, 8, 0)
    written = pq.read_table(Path(path) / "reference/base/draw-0001.parquet")
    assert written.schema.equals(reference_errors.IMAGES_SCHEMA)
    assert written.num_rows == 8
    assert list(store_check.problems(path)) == []

    pairs = reference_errors.attach(open_store(path), path, "base")
    labelled = applied_labels.apply_labels(pairs, path, "human")
    for draw in (0, 1):
        for start in range(0, 12, BATCH):
            rows = np.arange(start, start + BATCH)
            batch = loader.assemble(labelled, rows, config.seed, draw, inline.backbone.timestep, config.caption_dropout)
            assert batch.reference_errors is not None
            assert torch.equal(batch.reference_errors, inline.reference.errors(batch))


def test_the_pairs_of_a_group_share_timestep_and_noise(group_store: Path) -> None:
    pairs = open_store(str(group_store))
    assert pairs.groups is not None
    batch = loader.assemble(
        applied_labels.as_stored(pairs), np.arange(18), 0, 3, lambda uniform: int(1000 * uniform), 0.2
    )
    seen: dict[int, tuple[int, bytes]] = {}
    for place, group in enumerate(pairs.groups.pair_groups.tolist()):
        drawn = int(batch.timesteps[place]), batch.noise[place].numpy().tobytes()
        assert seen.setdefault(group, drawn) == drawn
    assert len(seen) == len(set(seen.values())) == 3  # and no two groups do
