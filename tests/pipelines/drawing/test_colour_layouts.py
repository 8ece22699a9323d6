"""Colour layouts are few flat areas, the same for the same seed, index and caption, and start images of edits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infra.base.errors import UserError
from pipelines.drawing import image_sets, start_images
from pipelines.drawing.colour_layouts import layout, main
from pipelines.drawing.layout_config import LayoutConfig
from pipelines.raw.decode import open_image


def test_a_layout_has_a_background_and_rectangles_of_the_promised_size() -> None:
    pixels = layout(64, 1, np.random.default_rng(0))
    assert (pixels.shape, pixels.dtype) == ((64, 64, 3), np.uint8)
    colours, areas = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    assert len(colours) == 2
    rows, columns = np.nonzero((pixels == colours[areas.argmin()]).all(axis=-1))
    height, width = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
    assert len(rows) == height * width  # a whole rectangle
    assert 16 <= height <= 48
    assert 16 <= width <= 48
    assert len(np.unique(layout(64, 4, np.random.default_rng(0)).reshape(-1, 3), axis=0)) <= 5


def test_layouts_are_start_images(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    config = LayoutConfig(
        prompts=str(tmp_path / "prompts.txt"), output=str(tmp_path / "layouts"), images_per_prompt=2, side=16
    )
    main(config)
    table = image_sets.read_images(config.output)
    shown = [np.asarray(open_image(content)) for content in table["image"].to_pylist()]
    assert len({image.tobytes() for image in shown}) == 4  # of two captions and two indices
    wanted = image_sets.wanted_images(["a", "b"], 2, seed=5)
    found = start_images.digest(config.output, wanted)
    main(config)
    assert start_images.digest(config.output, wanted) == found
    again = replace(config, output=str(tmp_path / "again"))
    main(again)
    assert start_images.digest(again.output, wanted) == found
    with pytest.raises(UserError, match=r"/layouts was begun with other settings \(seed was 0, now 1\)"):
        main(replace(config, seed=1))
    main(replace(config, seed=1, output=str(tmp_path / "other")))
    assert start_images.digest(str(tmp_path / "other"), wanted) != found


def test_other_captions_of_the_same_number_are_refused_and_replace_nothing(tmp_path: Path) -> None:
    prompts, config = (
        tmp_path / "prompts.txt",
        LayoutConfig(prompts=str(tmp_path / "prompts.txt"), output=str(tmp_path / "out")),
    )
    prompts.write_text("a\nb\n")
    main(config)
    manifest, images = (tmp_path / "out" / "manifest.json").read_bytes(), image_sets.read_images(config.output)
    prompts.write_text("a\nc\n")
    with pytest.raises(UserError, match=r"/out was begun with other settings \(captions was .*\); give another"):
        main(config)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == manifest
    assert image_sets.read_images(config.output) == images


def test_a_folder_painted_before_captions_were_hashed_is_painted_again(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    config = LayoutConfig(prompts=str(tmp_path / "prompts.txt"), output=str(tmp_path / "out"))
    main(config)
    manifest = tmp_path / "out" / "manifest.json"
    now = manifest.read_bytes()
    old = json.loads(now)
    del old["identity"]["captions"]
    manifest.write_text(json.dumps(old))
    with pytest.raises(UserError, match=r"begun with other settings .*images was 2, now 1"):
        main(replace(config, limit=1))
    main(config)
    assert manifest.read_bytes() == now  # scores and KID of the old manifest are stale


def test_an_unfinished_folder_of_the_generator_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a\n")
    work = tmp_path / "images" / ".work"
    work.mkdir(parents=True)
    (work / "config.json").write_text(json.dumps({"identity": {}}))
    with pytest.raises(UserError, match=r"generate\.py has not finished its images here"):
        main(LayoutConfig(prompts=str(tmp_path / "prompts.txt"), output=str(tmp_path / "images")))


@pytest.mark.parametrize("name", ["limit", "images_per_prompt", "rectangles", "side"])
def test_counts_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} 0: must be at least"):
        main(replace(LayoutConfig(), **{name: 0}))  # type: ignore[arg-type]
