"""Captions are drawn in the bucket nearest to their own shape, which a table or a store tells."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.material import MODEL

from infra.base import engines
from infra.base.errors import UserError
from pipelines.drawing import generate, generate_config, image_sets, sizes
from pipelines.drawing.prompt_sets import read_set
from pipelines.drawing.prompts import Prompt, read_grouped
from pipelines.drawing.store_prompts import is_store, read_store

Pipelines = Callable[[str], Path]


def test_a_table_tells_shapes(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("Prompt,Width,HEIGHT\na star,30,20\na ring,,20\na cross,-3,2\na disc,48.0,64.5\na box,48.0,64\n")
    assert [prompt.shape for prompt in read_grouped(str(path), ())] == [(20, 30), None, None, None, (64, 48)]
    again = tmp_path / "again.jsonl"
    again.write_bytes(read_set(str(path)).content)
    assert json.loads(again.read_text().splitlines()[0]) == {"prompt": "a star", "height": 20, "width": 30}
    assert read_grouped(str(again), ()) == read_grouped(str(path), ())


def test_a_shape_becomes_the_models_nearest_bucket(tiny_pipeline: Pipelines) -> None:
    # At 16 px in steps of 4: 16x16, 20x16, 24x12 and lying ones.
    found = sizes.bucketed([Prompt("a", shape=(500, 500)), Prompt("b", shape=(1080, 1920))], tiny_pipeline("sd-v"), "x")
    assert found == [(16, 16), (12, 20)]
    with pytest.raises(
        UserError, match=r"--buckets: prompt 2 of x \('b'\) has no shape; give columns height and width"
    ):
        sizes.bucketed([Prompt("a", shape=(1, 1)), Prompt("b")], tiny_pipeline("sd-v"), "x")


def test_a_pipeline_is_told_its_size_where_it_would_draw_another() -> None:
    assert sizes.size_arguments(SimpleNamespace(), None) == {}
    assert sizes.size_arguments(SimpleNamespace(), (16, 20)) == {"height": 16, "width": 20}
    config = SimpleNamespace(config=SimpleNamespace(sample_size=16))

    class SanaPipeline:
        transformer = config
        vae_scale_factor = 32

    plain = {"height": 512, "width": 512, "use_resolution_binning": False}
    assert sizes.size_arguments(SanaPipeline(), None) == plain
    assert sizes.size_arguments(SanaPipeline(), (448, 576)) == plain | {"height": 448, "width": 576}


def test_a_store_s_captions_have_their_pairs_shapes(bucketed: Path, encoded_store: Path) -> None:
    assert is_store(str(bucketed))
    assert not is_store(str(MODEL))
    pairs = pq.read_table(bucketed / "pairs", filters=[("status", "=", "kept")]).to_pylist()
    captions = pq.read_table(bucketed / "prompts", columns=["prompt_id", "caption"]).to_pylist()
    text = {row["prompt_id"]: row["caption"] for row in captions}
    found = read_store(str(bucketed))
    assert [prompt.caption for prompt in found] == [text[key] for key in sorted({row["prompt_id"] for row in pairs})]
    for prompt in found:
        counted = Counter((row["height"], row["width"]) for row in pairs if text[row["prompt_id"]] == prompt.caption)
        assert prompt.shape is not None
        assert counted[prompt.shape] == max(counted.values())
    assert read_set(str(bucketed), limit=2).prompts == tuple(found[:2])
    assert {prompt.shape for prompt in read_store(str(encoded_store))} == {(64, 64)}  # of squares


def test_images_have_their_prompts_buckets(bucketed: Path, tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    config = generate.GenerateConfig(
        model=str(tiny_pipeline("sd3")),  # with the buckets of the store's model
        prompts=str(bucketed),
        output=str(tmp_path / "images"),
        buckets=True,
        sampling_steps=1,
        gallery=0,
    )
    with engines.asking("local"):
        generate.main(config)
    drawn = image_sets.read_images(config.output)
    assert drawn.column_names == ["image_id", "caption", "image_index", "image_seed", "image"]
    shapes = {prompt.caption: prompt.shape for prompt in read_store(str(bucketed))}
    found = {row["caption"]: Image.open(io.BytesIO(row["image"])).size[::-1] for row in drawn.to_pylist()}
    assert found == shapes
    assert len(set(shapes.values())) > 1
    squares = tmp_path / "squares.jsonl"
    squares.write_text("".join(json.dumps({"prompt": one, "height": 1, "width": 1}) + "\n" for one in shapes))
    other = generate.GenerateConfig(**{**vars(config), "prompts": str(squares)})
    with pytest.raises(UserError, match=r"other settings \(.*shapes was"):
        generate.main(other)


def test_edits_have_no_buckets() -> None:
    with pytest.raises(UserError, match="--buckets: start images have the model's own size"):
        generate_config.check_config(generate.GenerateConfig(buckets=True, init_images="x"))
