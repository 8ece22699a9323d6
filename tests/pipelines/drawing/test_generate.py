"""Start noise is a function of seed, index and caption; what is drawn decides whether a folder is finished."""

from __future__ import annotations

import io
import json
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
from support.material import MODEL
from support.trained_models import lora_result

from infra.base import cli, files, models
from infra.base.errors import UserError
from pipelines.drawing import generate, generate_config, image_sets
from pipelines.drawing.image_identity import image_seed
from pipelines.drawing.sampling import Edit, Refiner, draw_images, load_pipeline
from pipelines.engine import choose
from pipelines.engine.jobs import Job
from pipelines.judging import score
from pipelines.latents.adapters import check_adapters

Pipelines = Callable[[str], Path]


def test_wanted_images_are_numbered_per_caption_and_seeded_apart() -> None:
    wanted = image_sets.wanted_images(["a", "b", "a"], 2, seed=0)
    assert wanted["image_index"].to_pylist() == [0, 1, 0, 1, 2, 3]
    assert len(set(wanted["image_id"].to_pylist())) == 6
    assert len(set(wanted["image_seed"].to_pylist())) == 6
    assert image_seed(0, 0, "a") != image_seed(1, 0, "a")
    # Known ones stay: images of another version are compared with these by id, as of the same noise.
    known = image_sets.wanted_images(["a", "b", "a"], 1, seed=7)
    assert known["image_id"].to_pylist() == [-4140802898872742535, 3918498706594164974, -6423487610066257185]
    assert known["image_seed"].to_pylist() == [1479445907, 1384466768, 3491181008]


@pytest.mark.slow
def test_an_image_does_not_depend_on_its_batch() -> None:
    pipeline = load_pipeline(MODEL, torch.float32, "cpu")
    captions = ["a big red circle on a teal background", "a small white cross on a black background"]
    both = draw_images(pipeline, captions, [5, 6], 4, 3.0)
    alone = draw_images(pipeline, captions[1:], [6], 4, 3.0)
    assert np.abs(np.asarray(both[1], int) - np.asarray(alone[0], int)).max() <= 2  # rounding of another batch size


def test_images_are_scored_by_tiny_models() -> None:
    captions = ["a big red circle on a teal background", "a small white cross on a black background"]
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(buffer, format="PNG")
    columns = {"image_id": [1, 2], "caption": captions, "image_index": [0, 0], "image": [buffer.getvalue()] * 2}
    scores = score.ScoreImages({"clip": None, "oracle": "published"})(pa.table(columns))
    assert scores.column_names == ["image_id", "caption", "image_index", "clip", "oracle"]
    assert scores["clip"][0].as_py() > scores["clip"][1].as_py()  # teal is half of what the first caption says


def test_the_captions_count_and_not_the_file_they_stood_in() -> None:
    config = generate.GenerateConfig(prompts="a.txt", limit=2)
    one = generate.image_identity(config, MODEL, ["a", "b"])
    assert one == generate.image_identity(replace(config, prompts="b.csv", limit=None), MODEL, ["a", "b"])
    assert one != generate.image_identity(config, MODEL, ["a", "b "])
    assert one != generate.image_identity(config, MODEL, ["ab"])


def test_counts_below_one_are_refused(tmp_path: Path) -> None:
    config = generate.GenerateConfig(output=str(tmp_path / "images"))
    with pytest.raises(UserError, match="--images-per-prompt 0: must be at least 1"):
        generate.main(replace(config, images_per_prompt=0))
    with pytest.raises(UserError, match="--limit -1: must be at least 1"):
        generate.main(replace(config, limit=-1))
    assert not (tmp_path / "images").exists()


def test_the_preset_samples_as_stable_diffusion_is_judged() -> None:
    seen: list[generate.GenerateConfig] = []
    cli.run(seen.append, generate.GenerateConfig, generate_config.PRESETS, ["--preset", "sd15", "--model", "x"])
    assert (seen[0].sampling_steps, seen[0].guidance_scale, seen[0].dtype, seen[0].model) == (50, 7.5, "bfloat16", "x")


def test_a_safety_checker_is_not_loaded(tmp_path: Path) -> None:
    folder = shutil.copytree(MODEL, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    (folder / "model_index.json").write_text(json.dumps(index))
    pipeline = load_pipeline(folder, torch.float32, "cpu")  # the checker's own folder is not there to be read
    assert pipeline.safety_checker is None
    assert not pipeline.config.requires_safety_checker


@pytest.mark.slow
def test_adapters_draw_as_the_policy_they_were_saved_from(noted_jobs: list[Job], tmp_path: Path, bucket: str) -> None:
    lora, policy = lora_result(tmp_path / "lora")
    caption = "a big red circle on a teal background"
    (tmp_path / "prompts.txt").write_text(f"{caption}\n")
    config = generate.GenerateConfig(
        prompts=str(tmp_path / "prompts.txt"), output=str(tmp_path / "images"), sampling_steps=2, lora=str(lora)
    )
    generate.main(config)
    assert len(noted_jobs) == 1
    found = np.asarray(Image.open(io.BytesIO(image_sets.read_images(config.output)["image"][0].as_py())))
    seeds = [image_seed(0, 0, caption)]
    base = load_pipeline(MODEL, torch.float32, "cpu")
    drawn = [
        np.asarray(draw_images(pipeline, [caption], seeds, 2, 3.0)[0])
        for pipeline in (load_pipeline(MODEL, torch.float32, "cpu", unet=policy), base)
    ]
    assert np.array_equal(found, drawn[0])
    assert not np.array_equal(found, drawn[1])
    place = f"{bucket}/{tmp_path.name}"
    for file in lora.iterdir():
        files.copy(str(file), f"{place}/lora/{file.name}")
    remote = replace(config, lora=f"{place}/lora", output=f"{place}/images")
    generate.main(remote)
    assert image_sets.read_images(remote.output) == image_sets.read_images(config.output)
    again = cli.parse(generate.GenerateConfig, {}, ["--config", f"{config.output}/config.json"])
    assert again == config
    other, _ = lora_result(tmp_path / "other", alpha=4)
    with pytest.raises(UserError, match=r"other settings \(lora was .*; fingerprints\.lora was '[^']+', now '[^']+'\)"):
        generate.main(replace(config, lora=str(other)))
    with pytest.raises(UserError, match=r"other settings"):
        generate.main(replace(config, lora=None))


def small_set(tmp_path: Path) -> generate.GenerateConfig:
    """Draw one image with a copy of the world's model."""
    folder = shutil.copytree(MODEL, tmp_path / "copy")
    output = str(tmp_path / "images")
    config = generate.GenerateConfig(model=str(folder), output=output, limit=1, sampling_steps=1, guidance_scale=1.0)
    generate.main(config)
    return config


@pytest.mark.usefixtures("noted_jobs")
def test_the_number_of_images_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = small_set(tmp_path).output
    said = capsys.readouterr().out
    assert said.count("1 images") == 1
    assert f"look at {output}/gallery.html\n{output}: 1 images, " in said


@pytest.mark.chaos
@pytest.mark.usefixtures("noted_jobs")
def test_images_of_another_scheduler_are_not_called_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_set(tmp_path)
    generate.main(config)
    assert "already finished" in capsys.readouterr().out
    path = Path(config.model) / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction"}))
    with pytest.raises(UserError, match=r"images was begun with other settings \(fingerprints\.scheduler was"):
        generate.main(config)


@pytest.mark.usefixtures("noted_jobs")
def test_images_of_an_earlier_version_are_compared_by_its_fingerprints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_set(tmp_path)
    finished = Path(config.output) / image_sets.DONE
    told = json.loads(finished.read_text())
    parts = ("text_encoder", "unet", "vae")
    told["identity"]["fingerprints"] = {part: models.fingerprint(Path(config.model), part) for part in parts}
    finished.write_text(json.dumps(told))
    generate.main(config)
    said = capsys.readouterr()
    assert "already finished" in said.out
    assert said.err.count("was made by an earlier version") == 1


def test_folders_drawn_before_there_were_adapters_edits_and_refiners_stay_finished() -> None:
    assert set(generate.image_identity(generate.GenerateConfig(), MODEL, ["a"])) == {
        "model", "revision", "images_per_prompt", "seed", "sampling_steps", "guidance_scale", "dtype",
        "captions", "fingerprints",
    }  # fmt: skip


def test_adapters_of_nothing_or_of_another_model_are_refused(tmp_path: Path) -> None:
    config = generate.GenerateConfig(output=str(tmp_path / "images"), lora=str(tmp_path))
    with pytest.raises(UserError, match=r"--lora .* has no pytorch_lora_weights\.safetensors"):
        generate.main(config)
    lora, _ = lora_result(tmp_path / "lora")
    with pytest.raises(UserError, match=r"--model .*lora: .* holds adapters \(LoRA\), not a model"):
        models.local_folder(str(lora))
    folder = shutil.copytree(MODEL, tmp_path / "model")
    settings = json.loads((folder / "unet" / "config.json").read_text())
    settings["cross_attention_dim"] = 2 * settings["cross_attention_dim"]
    (folder / "unet" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"--lora .*lora: belongs to another model than .*/model \(size mismatch"):
        check_adapters("--lora", lora, folder)


def starts(path: Path, caption: str, colour: str, size: tuple[int, int] = (64, 64)) -> str:
    """Write a table of one start image of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    pq.write_table(pa.table({"caption": [caption], "image": [buffer.getvalue()]}), path)
    return str(path)


@pytest.mark.slow
def test_edits_start_from_the_images_that_are_given(noted_jobs: list[Job], tmp_path: Path) -> None:
    caption = "a big red circle on a teal background"
    (tmp_path / "prompts.txt").write_text(f"{caption}\n")
    config = generate.GenerateConfig(
        prompts=str(tmp_path / "prompts.txt"),
        output=str(tmp_path / "images"),
        images_per_prompt=2,
        sampling_steps=5,
        init_images=starts(tmp_path / "starts.parquet", caption, "teal", (160, 96)),
    )
    generate.main(config)
    assert len(noted_jobs) == 1
    found = image_sets.read_images(config.output)
    assert found.column_names == ["image_id", "caption", "image_index", "image_seed", "image"]
    manifest = json.loads((tmp_path / "images" / "manifest.json").read_text())
    assert manifest["config"]["strength"] == manifest["identity"]["strength"] == 0.6
    pipeline = load_pipeline(MODEL, torch.float32, "cpu", edits=True)
    edit = Edit([Image.new("RGB", (64, 64), "teal")] * 2, 0.6)  # resized to the model's side
    drawn = draw_images(pipeline, [caption] * 2, found["image_seed"].to_pylist(), 5, 3.0, edit=edit)
    for content, image in zip(found["image"].to_pylist(), drawn, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(image))
    shutil.copy(tmp_path / "starts.parquet", tmp_path / "moved.parquet")
    generate.main(replace(config, init_images=str(tmp_path / "moved.parquet"), strength=0.6))
    assert len(noted_jobs) == 1  # the same start images, wherever they stand
    other = starts(tmp_path / "other.parquet", caption, "red")
    with pytest.raises(UserError, match=r"other settings \(init_images was '[^']+', now '[^']+'\)"):
        generate.main(replace(config, init_images=other))
    with pytest.raises(UserError, match=r"other settings \(strength was 0\.6, now 0\.8\)"):
        generate.main(replace(config, strength=0.8))
    with pytest.raises(
        UserError, match=r"other settings \(strength was 0\.6, now None; init_images was '[^']+', now None\)"
    ):
        generate.main(replace(config, init_images=None))


def test_edits_that_can_not_be_are_refused_before_anything_starts(
    tmp_path: Path, tiny_pipeline: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "connect", lambda *_: pytest.fail("an engine was asked for"))
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    config = generate.GenerateConfig(prompts=str(tmp_path / "prompts.txt"), output=str(tmp_path / "images"))
    edits = replace(config, init_images=starts(tmp_path / "starts.parquet", "a", "teal"))
    refined = replace(config, model=str(tiny_pipeline("sdxl")), refiner=str(tiny_pipeline("sdxl-refiner")))
    for wrong, told in (
        (edits, "--init-images .*: no start image for image 0 of 'b'"),
        (replace(edits, strength=0.0), "--strength 0: must be above 0 and at most 1"),
        (replace(edits, strength=1.1), r"--strength 1\.1: must be above 0 and at most 1"),
        (replace(edits, strength=float("nan")), "--strength nan: must be above 0 and at most 1"),
        (replace(edits, strength=0.04), r"--strength 0\.04: leaves none of 20 sampling steps"),
        (replace(config, strength=0.6), r"--strength 0\.6: has no meaning without --init-images"),
        (replace(config, refiner_start=0.8), r"--refiner-start 0\.8: has no meaning without --refiner"),
        (replace(refined, refiner_start=1.0), "--refiner-start 1: must be between 0 and 1"),
        (replace(refined, model=str(MODEL)), "--model .*: a StableDiffusionPipeline; a refiner is a "),
        (replace(refined, refiner=str(tmp_path)), "--refiner .*: .* has no model_index.json"),
    ):
        with pytest.raises(UserError, match=told):
            generate.main(wrong)
    assert not (tmp_path / "images").exists()


@pytest.mark.slow
def test_a_refined_folder_knows_its_refiner(noted_jobs: list[Job], tmp_path: Path, tiny_pipeline: Pipelines) -> None:
    (tmp_path / "prompts.txt").write_text("a red star\n")
    base, refiner = tiny_pipeline("sdxl"), tiny_pipeline("sdxl-refiner")
    config = generate.GenerateConfig(
        model=str(base), prompts=str(tmp_path / "prompts.txt"), output=str(tmp_path / "images"), sampling_steps=5,
        refiner=str(refiner),
    )  # fmt: skip
    generate.main(config)
    found = image_sets.read_images(config.output)
    loaded = [load_pipeline(folder, torch.float32, "cpu") for folder in (base, refiner)]
    seeds = found["image_seed"].to_pylist()
    drawn = draw_images(loaded[0], ["a red star"], seeds, 5, 3.0, refiner=Refiner(loaded[1], 0.8))[0]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(found["image"][0].as_py()))), np.asarray(drawn))
    copied = shutil.copytree(refiner, tmp_path / "refiner")
    generate.main(replace(config, refiner=str(copied), refiner_start=0.8))
    assert len(noted_jobs) == 1  # the same refiner, wherever it stands
    path = copied / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": 0.2}))
    with pytest.raises(UserError, match=r"other settings \(refiner\.vae was '[^']+', now '[^']+'\)"):
        generate.main(replace(config, refiner=str(copied)))
    with pytest.raises(UserError, match=r"other settings \(refiner_start was 0\.8, now None; refiner\."):
        generate.main(replace(config, refiner=None))
