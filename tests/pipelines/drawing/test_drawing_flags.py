"""Flags, captions and seeds reach the pipeline that draws, whatever their defaults are."""

from __future__ import annotations

import inspect
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.drawing import draw_images as drawing
from pipelines.drawing import generate, image_sets, sampling
from pipelines.drawing.generate_config import GenerateConfig


class StableDiffusionPipeline:
    """A pipeline that notes what it is asked for; its images have the numbers of their noise's seeds."""

    image_processor = None

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(self, **given: Any) -> SimpleNamespace:
        self.asked.append(given)
        seeds = [generator.initial_seed() for generator in given["generator"]]
        return SimpleNamespace(images=[Image.new("RGB", (1, 1), (seed, 0, 0)) for seed in seeds])


def test_a_pipeline_is_asked_with_what_it_is_to_draw() -> None:
    pipeline = StableDiffusionPipeline()
    sampling.draw_images(pipeline, ["a", "b"], [3, 4], 7, 2.5, 99, shape=(16, 24))  # type: ignore[arg-type]
    (given,) = pipeline.asked
    assert [one.initial_seed() for one in given.pop("generator")] == [3, 4]
    size = {"height": 16, "width": 24}
    assert given == {
        "prompt": ["a", "b"],
        "num_inference_steps": 7,
        "guidance_scale": 2.5,
        "max_sequence_length": 99,
        **size,
    }


def test_an_edit_has_its_start_images_and_strength() -> None:
    pipeline = StableDiffusionPipeline()
    start = Image.new("RGB", (2, 2))
    sampling.draw_images(pipeline, ["a"], [3], 7, 2.5, edit=sampling.Edit([start], 0.4))  # type: ignore[arg-type]
    (given,) = pipeline.asked
    assert (given["image"], given["strength"]) == ([start], 0.4)
    assert "max_sequence_length" not in given


def test_a_refiner_goes_on_where_the_base_ends() -> None:
    base = StableDiffusionPipeline()
    refiner = StableDiffusionPipeline()
    second = sampling.Refiner(refiner, 0.7)  # type: ignore[arg-type]
    sampling.draw_images(base, ["a"], [3], 7, 2.5, refiner=second)  # type: ignore[arg-type]
    assert (base.asked[0]["denoising_end"], base.asked[0]["output_type"]) == (0.7, "latent")
    assert (refiner.asked[0]["denoising_start"], refiner.asked[0]["num_inference_steps"]) == (0.7, 7)
    assert refiner.asked[0]["image"][0].getpixel((0, 0)) == (3, 0, 0)  # what the base drew


def test_images_of_several_shapes_keep_their_captions_and_seeds() -> None:
    step: Any = object.__new__(drawing.DrawImages)
    step.__dict__ |= {"pipeline": StableDiffusionPipeline(), "steps": 7, "guidance_scale": 2.5, "max_tokens": None}
    step.__dict__ |= {"strength": None, "refiner": None}
    shapes = [(8, 16), (8, 8), (8, 16)]
    wanted = image_sets.wanted_images(["a", "b", "c"], 1, 0, shapes)
    seeds = [10, 20, 30]
    place = wanted.schema.get_field_index("image_seed")
    drawn = step(wanted.set_column(place, "image_seed", [seeds]))
    assert [(given["prompt"], given["width"]) for given in step.pipeline.asked] == [(["b"], 8), (["a", "c"], 16)]
    reds = [np.asarray(Image.open(io.BytesIO(one)))[0, 0, 0] for one in drawn["image"].to_pylist()]
    assert reds == seeds
    assert drawn["caption"].to_pylist() == ["a", "b", "c"]


def test_the_step_that_draws_is_made_as_the_flags_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate.choose, "current", lambda: SimpleNamespace(device_count=lambda: 0))
    config = GenerateConfig(
        sampling_steps=7, guidance_scale=2.5, dtype="bfloat16", max_tokens=128, batch_size=3, refiner_start=0.7
    )
    wanted = image_sets.wanted_images(["a", "b"], 2, 0)
    others: dict[str, Any] = {"model": "the model", "refiner": "the refiner", "against": "the negative"}
    job = generate._job(config=config, output=str(tmp_path), wanted=wanted, **others)
    (step,) = job.steps
    inspect.signature(step.function).bind(**step.arguments)
    assert step.arguments == {
        "model": "the model",
        "steps": 7,
        "guidance_scale": 2.5,
        "dtype": "bfloat16",
        "max_tokens": 128,
        "lora": None,
        "strength": None,
        "refiner": "the refiner",
        "refiner_start": 0.7,
        "negative_model": "the negative",
    }
    assert (job.rows, job.rows_per_block, step.batch_size) == (4, 12, 3)
