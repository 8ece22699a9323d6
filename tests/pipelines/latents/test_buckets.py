"""Buckets: which shapes there are, which pair goes where, and what a bucketed store holds."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support.bucketed import SIZES, bucketed_config, encode_bucketed, rated, shaped_pairs

from infra.base import engines, models
from infra.base.errors import UserError
from pipelines.latents import addresses, autoencoders, buckets, encode_latents, schemas, store, store_check
from pipelines.latents.decoding import CheckAndDecode
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.encoders import LatentEncoder
from pipelines.raw.decode import shaped_pixels, square_pixels
from training.data import direct
from training.data.staging import stage

Pipelines = Callable[[str], Path]
LADDER = ((16, 16), (20, 12), (12, 20), (24, 12), (12, 24))  # height, width; sides are multiples of 4


def kept_rows(path: Path) -> pa.Table:
    """Read a store's kept pairs."""
    return pa.concat_tables([pq.read_table(file, partitioning=None) for file in path.glob(f"{store.KEPT}/*")])


def test_the_ladder_is_the_librarys_and_goes_by_the_models_step(tiny_pipeline: Pipelines) -> None:
    # The tiny VAE halves once, and the tiny UNet has two levels: 2 x 2 = 4 pixels.
    assert buckets.step_of(tiny_pipeline("sd-v")) == 4
    assert buckets.ladder(tiny_pipeline("sd-v"), 16) == LADDER
    # SD3's patches of 2: 2 x 2 = 4 pixels too; positions for 8 patches, which is 32 pixels.
    assert buckets.ladder(tiny_pipeline("sd3"), 16) == LADDER
    # At 28, the longest side is 28 x sqrt(2) = 39.6 pixels: 40.
    with pytest.raises(UserError, match="longest bucket has 40 pixels, and this network has positions for 32"):
        buckets.ladder(tiny_pipeline("sd3"), 28)
    with pytest.raises(UserError, match=r"18 is not a multiple of 4.*give 16"):
        buckets.ladder(tiny_pipeline("sd-v"), 18)


def test_a_bucket_loses_what_its_ratio_differs_by() -> None:
    # 100 x 50 (width x height) in a square: half is cut off. In 2:1 nothing is.
    assert buckets.lost_share((50, 100), (16, 16)) == 0.5
    assert buckets.lost_share((50, 100), (12, 24)) == 0
    # 3:4 in 16:16 loses a quarter, and as much the other way round.
    assert buckets.lost_share((400, 300), (16, 16)) == pytest.approx(0.25)
    assert buckets.lost_share((16, 16), (400, 300)) == pytest.approx(0.25)


def test_a_pair_has_slot_0s_bucket_and_slot_1_must_fit_it() -> None:
    rows = [
        rated(0, (32, 16), (64, 32)),  # width, height; both 2:1
        rated(1, (32, 16), (30, 16)),  # slot 1 loses 1 - (30/16) / 2 = 6 %
        rated(2, (32, 16), (16, 16)),  # and here the half
        rated(3, (16, 64), (16, 64)),  # 1:4 in 1:2
    ]
    raw = pa.Table.from_pylist(rows)
    table = CheckAndDecode(16, False, shapes=LADDER, tolerance=0.15)(raw)
    assert table["status"].to_pylist() == ["kept", "kept", "quarantined", "quarantined"]
    assert table["height"].to_pylist() == [12, 12, None, None]
    assert table["width"].to_pylist() == [24, 24, None, None]
    assert [len(pixels) for pixels in table["pixels_1"].to_pylist()[:2]] == [12 * 24 * 3] * 2
    assert table["stage"].to_pylist()[2:] == [buckets.STAGE] * 2
    assert table["reason"].to_pylist()[2:] == [
        "image 1 of 16x16 does not fit the pair's bucket of 24x12: 50% is over --bucket-tolerance 0.15",
        "image 0 of 16x64 does not fit the pair's bucket of 12x24: 50% is over --bucket-tolerance 0.15",
    ]


def test_pixels_of_a_bucket_are_the_images_centre_or_the_whole_with_white() -> None:
    wide = np.zeros((2, 6, 3), np.uint8)
    wide[:, 1:5] = 100  # a column of black at each end
    image = Image.fromarray(wide)
    assert (shaped_pixels(image, 2, 4) == 100).all()
    padded = shaped_pixels(Image.fromarray(wide[:, 1:5]), 2, 6, "pad")
    assert (padded[:, 1:5] == 100).all()
    assert (padded[:, [0, 5]] == 255).all()
    for fit in ("crop", "pad"):
        assert np.array_equal(shaped_pixels(image, 4, 4, fit), square_pixels(image, 4, fit))  # type: ignore[arg-type]


def test_a_turned_image_has_the_shape_that_is_seen() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (24, 12), (9, 9, 9)).save(buffer, format="JPEG", exif=exif)
    row = rated(0, (12, 24), (12, 24)) | {"jpg_0": buffer.getvalue()}
    table = CheckAndDecode(16, False, shapes=LADDER, tolerance=0.15)(pa.Table.from_pylist([row]))
    assert (table["height"][0].as_py(), table["width"][0].as_py()) == (24, 12)


@pytest.mark.parametrize("posterior", ["sample", "moments"])
def test_a_rows_latents_are_those_of_its_images_and_zeros_follow(
    posterior: str, tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    path = encode_bucketed(tiny_pipeline("sd-v"), tmp_path, posterior=posterior, flip=True)
    manifest = store.read_manifest(str(path))
    assert manifest.buckets == LADDER
    assert manifest.latent_shape == (4, 8, 8)
    assert manifest.shapes == ((4, 8, 8), (4, 10, 6), (4, 6, 10), (4, 12, 6), (4, 6, 12))
    assert manifest.row_values == 4 * 12 * 6 * (2 if posterior == "moments" else 1)  # 72 positions; the square has 64
    assert manifest.counts.kept == len(SIZES) * 6
    vae = autoencoders.load_vae(tiny_pipeline("sd-v"), torch.float32)
    raw = {row["ranking_id"]: row for row in shaped_pairs()}
    table = kept_rows(path)
    seen = set()
    for row in table.slice(0, 8).to_pylist():
        height = row["height"]
        width = row["width"]
        seen.add((height, width))
        used = 4 * (height // 2) * (width // 2) * (2 if posterior == "moments" else 1)
        for name in schemas.latent_columns(flip=True):
            assert len(row[name]) == manifest.row_values
            assert not any(row[name][used:])
        if posterior == "moments":
            number = int(row["image_0_uid"].split("-")[0])
            image = Image.open(io.BytesIO(raw[number]["jpg_0"]))
            pixels = torch.from_numpy(shaped_pixels(image, height, width).copy()).permute(2, 0, 1)[None] / 127.5 - 1
            mean, _ = autoencoders.posterior(vae, pixels)
            _, scale = autoencoders.normalisation(tiny_pipeline("sd-v")).tensors()
            expected = (mean * scale).flatten().numpy()
            assert np.allclose(row["latents_0"][: used // 2], expected, atol=2e-3)  # float16
    assert len(seen) > 1


def test_the_index_has_each_pairs_bucket_and_a_copy_reads_the_same(bucketed: Path) -> None:
    manifest = store.read_manifest(str(bucketed))
    pairs = direct.open_pairs(str(bucketed), manifest, None)
    kept = kept_rows(bucketed)
    sides = {row["pair_id"]: (row["height"], row["width"]) for row in kept.to_pylist()}
    assert pairs.buckets is not None
    assert [manifest.buckets[one] for one in pairs.buckets] == [sides[int(one)] for one in pairs.pair_ids]
    assert len(set(pairs.buckets.tolist())) == len(SIZES)
    copied = stage(str(bucketed))
    assert copied.buckets is not None
    assert np.array_equal(copied.buckets, pairs.buckets)
    rows = np.arange(len(pairs.pair_ids))
    for name, values in pairs.latents.begin(rows)().items():
        assert np.array_equal(copied.latents.begin(rows)()[name], values)


def test_lost_files_are_repaired_and_all_is_verified(bucketed: Path, tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    config = replace(
        bucketed_config(tiny_pipeline("sd-v"), tmp_path),
        source=str(bucketed.parent / "raw"),
        store=str(tmp_path / "copy"),
    )
    shutil.copytree(bucketed, config.store)
    before = store.read_manifest(config.store)
    lost = next(name for name in before.files if name.startswith(store.KEPT))
    (Path(config.store) / lost).unlink()
    with engines.asking("local"):
        encode_latents.main(replace(config, repair=True))
    assert store.read_manifest(config.store).content_hash == before.content_hash
    assert list(store_check.problems(config.store)) == []


def test_a_store_of_squares_and_one_of_buckets_are_not_gone_on_with_as_the_other(
    bucketed: Path, tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    config = replace(
        bucketed_config(tiny_pipeline("sd-v"), tmp_path), source=str(bucketed.parent / "raw"), store=str(bucketed)
    )
    with pytest.raises(UserError, match="buckets was True, now False"):
        encode_latents.main(replace(config, buckets=False))
    with pytest.raises(UserError, match=r"bucket_tolerance was 0\.15, now 0\.2"):
        encode_latents.main(replace(config, bucket_tolerance=0.2))
    with pytest.raises(UserError, match=r"--bucket-tolerance 0\.2: has no meaning without --buckets"):
        encode_latents.main(EncodeConfig(bucket_tolerance=0.2, store=str(tmp_path / "new")))


def test_without_buckets_nothing_is_stored_otherwise() -> None:
    schema = schemas.pairs_schema(4 * 8 * 8, flip=False)
    assert schema.names[:4] == ["pair_id", "prompt_id", "latents_0", "latents_1"]
    assert not set(schemas.SIDES) & set(schema.names)
    assert addresses.ROW_BYTES[addresses.PAIRS] == 24


def test_pairs_of_one_shape_are_encoded_as_in_a_store_without_buckets(tiny_pipeline: Pipelines) -> None:
    model = models.Model(str(tiny_pipeline("sd-v")))
    squares = pa.Table.from_pylist([rated(number, (20, 20), (16, 16)) for number in range(4)])
    without = LatentEncoder(model, 16, "sample", False, 0, 4, "float32")(CheckAndDecode(16, False)(squares))
    decoded = CheckAndDecode(16, False, shapes=LADDER, tolerance=0.15)(squares)
    bucketed = LatentEncoder(model, 16, "sample", False, 0, 4, "float32", shapes=LADDER)(decoded)
    size = math.prod((4, 8, 8))
    for name in schemas.latent_columns(flip=False):
        assert [row[:size] for row in bucketed[name].to_pylist()] == without[name].to_pylist()
