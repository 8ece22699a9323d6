"""Flags that decide latents reach the steps that make them; a flag that is lost on the way would change no message."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.engine.jobs import Job
from pipelines.latents import captions, decoding, encode_passes, encoders, group_passes, image_encoder
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.encode_passes import rows_per_block

# None of these is a default of the flag or of the step.
CONFIG = EncodeConfig(
    fit="pad",
    strict_labels=True,
    bucket_tolerance=0.3,
    posterior="moments",
    flip=True,
    seed=7,
    dtype="bfloat16",
    store_dtype="float32",
    batch_size=3,
    max_tokens=128,
    rows_per_file=5,
)
DECIDED = {"resolution": 24, "blocklist": "the words", "fit": "pad"}
ENCODED = {
    "model": "the model",
    "resolution": 24,
    "posterior": "moments",
    "flip": True,
    "seed": 7,
    "batch_size": 3,
    "dtype": "bfloat16",
    "checker": "the checker",
    "store_dtype": "float32",
}
SHAPES = ((24, 24), (32, 16))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Return the jobs that the encoder asks for, of which none runs."""
    asked: list[Job] = []
    engine = SimpleNamespace(device_count=lambda: 0, run=asked.append)
    monkeypatch.setattr(encode_passes.choose, "current", lambda: engine)
    for module, name in ((encode_passes, "refuse_spoilt_source"), (group_passes, "_refuse_spoilt_images")):
        monkeypatch.setattr(module, name, lambda _: None)
    return asked


@pytest.fixture
def plan() -> Any:
    return SimpleNamespace(
        config=CONFIG,
        model="the model",
        resolution=24,
        buckets=SHAPES,
        filter=SimpleNamespace(blocklist="the words", checker="the checker"),
        sources=["pairs.parquet"],
        dataset=SimpleNamespace(names=("caption", "label_0"), count_rows=lambda: 9),
        destination="/store",
        latent_bytes=8,
        value_bytes=4,
        embeddings={"text": (2, 3)},
        images=6,
        work=lambda *parts: "/store/.work/" + "/".join(parts),
    )


def steps_of(job: Job) -> list[tuple[type, dict[str, Any]]]:
    """Return the classes of a job's steps and what they are made with, which must fit."""
    for step in job.steps:
        inspect.signature(step.function).bind(**step.arguments)
    return [(step.function, dict(step.arguments)) for step in job.steps]


def test_pairs_are_decoded_and_encoded_as_the_flags_say(jobs: list[Job], plan: Any) -> None:
    encode_passes.encode_pairs(plan)
    judged = {**DECIDED, "strict_labels": True, "shapes": SHAPES, "tolerance": 0.3}
    assert steps_of(jobs[0]) == [
        (decoding.CheckAndDecode, judged),
        (encoders.LatentEncoder, {**ENCODED, "shapes": SHAPES}),
    ]
    assert (jobs[0].rows, jobs[0].rows_per_block, jobs[0].partition_by) == (9, 5, "status")


def test_images_of_groups_too(jobs: list[Job], plan: Any) -> None:
    group_passes._encode_images(plan)
    assert steps_of(jobs[0]) == [
        (decoding.CheckAndDecodeImages, DECIDED),
        (image_encoder.ImageEncoder, ENCODED),
    ]
    assert (jobs[0].rows, jobs[0].rows_per_block) == (6, 10)  # two images a pair


def test_captions_are_encoded_as_the_flags_say(
    jobs: list[Job], plan: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    key = encode_passes.pairs.prompt_id("a star")
    plan.work = lambda *parts: str(tmp_path.joinpath(*parts))
    monkeypatch.setattr(encode_passes, "kept_prompt_ids", lambda _: SimpleNamespace(tolist=lambda: [key]))
    monkeypatch.setattr(encode_passes.raw_table, "captions_of", lambda *_: [(key, "a star")])
    monkeypatch.setattr(encode_passes, "_say_cut", lambda *_: None)
    encode_passes.encode_captions(plan)
    wanted = {"model": "the model", "batch_size": 3, "dtype": "bfloat16", "max_tokens": 128, "store_dtype": "float32"}
    assert steps_of(jobs[0]) == [(captions.CaptionEncoder, wanted)]
    assert jobs[0].rows == 2  # the caption, and the empty one


def test_rows_of_a_file_fill_one_page_at_the_most() -> None:
    assert rows_per_block(256, 1 << 20) == 256
    assert rows_per_block(256, 1 << 22) == 128  # of 4 MiB each, 512 MiB hold 128
    assert rows_per_block(100_000, 8) == 16_384
    assert rows_per_block(256, 1 << 30) == 1
