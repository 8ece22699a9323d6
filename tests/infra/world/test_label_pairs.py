"""The oracle as rater: Bradley-Terry labels, ties where it is indifferent, Pick-a-Pic's columns, a few bad rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.base import files
from infra.base.errors import UserError
from infra.world import render_images
from infra.world.label_pairs import LabelConfig, main
from infra.world.rater import Rater
from pipelines.drawing.image_sets import DONE
from pipelines.latents.decoding import CheckAndDecode
from pipelines.raw import pairs
from pipelines.raw.raw_pairs import SCHEMA

CAPTIONS = ["a big red circle on a teal background", "a small white cross on a black background"]


def drawn(folder: Path, captions: list[str], per_prompt: int) -> LabelConfig:
    """Render images in generate.py's layout, and return the settings that label them."""
    folder.mkdir(exist_ok=True)
    (folder / "prompts.txt").write_text("\n".join(captions) + "\n")
    images = str(folder / "images")
    render_images.main(render_images.RenderConfig(str(folder / "prompts.txt"), images, per_prompt))
    return LabelConfig(images=images, output=str(folder / "raw"))


def test_labels_are_bradley_terry_with_ties_where_indifferent() -> None:
    rater = Rater(temperature=0.02, tie_margin=0.01)
    rng = np.random.default_rng(0)
    assert {rater.label(0.5, 0.5 + gap, rng) for gap in (-0.009, 0.0, 0.009)} == {0.5}
    # sigmoid(ln 3) = 3/4; the mean of 4,000 draws lies within 4 of its standard deviations, sqrt(3/16/4000) = 0.0068.
    draws = [rater.label(0.5 + 0.02 * math.log(3), 0.5, rng) for _ in range(4000)]
    assert set(draws) == {0.0, 1.0}
    assert np.mean(draws) == pytest.approx(0.75, abs=0.028)


def test_four_images_make_four_pairs_in_pick_a_pics_columns(tmp_path: Path) -> None:
    config = drawn(tmp_path, CAPTIONS, 4)
    main(config)
    table = pq.read_table(config.output)
    assert table.schema.equals(SCHEMA)
    assert table.num_rows == 2 * 4 + 6  # of four images 0-1, 2-3, 0-2 and 1-3; and six bad rows
    assert len(set(pairs.pair_ids(table).tolist())) == table.num_rows
    assert set(table["model_0"].to_pylist()) == {"true renders"}
    status = CheckAndDecode(64, strict_labels=False)(table)["status"].to_pylist()
    assert status.count("quarantined") == 5  # the sixth bad row, with contradicting labels, is kept and counted
    assert files.read_json(f"{config.output}/_config.json")["temperature"] == config.temperature


def test_the_model_is_the_one_that_drew(tmp_path: Path) -> None:
    config = drawn(tmp_path, CAPTIONS[:1], 2)
    manifest = files.read_json(f"{config.images}/{DONE}")
    files.write_json(f"{config.images}/{DONE}", manifest | {"identity": {"model": "me/my-model"}})
    main(config)
    table = pq.read_table(config.output)
    assert set(table["model_0"].to_pylist() + table["model_1"].to_pylist()) == {"me/my-model"}
    assert table.num_rows == 1 + 6


def test_a_rerun_gives_the_same_bytes_and_leaves_nothing_stale(tmp_path: Path) -> None:
    config = drawn(tmp_path, CAPTIONS, 2)
    main(config)
    first = (tmp_path / "raw" / "pairs-0000.parquet").read_bytes()
    (tmp_path / "raw" / "pairs-0001.parquet").write_bytes(first)  # of a longer run before
    main(config)
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["_config.json", "pairs-0000.parquet"]
    assert (tmp_path / "raw" / "pairs-0000.parquet").read_bytes() == first


def test_single_images_cannot_be_paired(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no caption has two images"):
        main(drawn(tmp_path, CAPTIONS, 1))


def test_the_committed_pairs_hold_about_one_tie_in_eight_and_a_few_bad_rows() -> None:
    table = pa.concat_tables(
        [pq.read_table(path) for path in files.list_files(files.resolve("infra/world/pairs"), ".parquet")]
    )
    share = table["label_0"].to_pylist().count(0.5) / table.num_rows
    assert 0.09 < share < 0.15
    refused = CheckAndDecode(64, strict_labels=False)(table)["status"].to_pylist().count("quarantined")
    assert 1 <= refused <= 6
