"""Prompts are read from every format; start noise is a function of seed, index and caption."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import MODEL, SHARED, Submit
from PIL import Image

from infra.errors import UserError
from pipelines import generate, score
from pipelines.sampling import draw_images, image_seed, load_pipeline


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", 'a cat\n\na "dog"\n'),
        ("p.tsv", 'Prompt\tCategory\na cat\tAnimals\na "dog"\tAnimals\n'),
        ("p.csv", 'id,caption\n1,a cat\n2,"a ""dog"""\n'),
        ("p.jsonl", '{"prompt": "a cat"}\n{"prompt": "a \\"dog\\""}\n'),
    ],
)
def test_prompts_are_read_from_every_format(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert generate.read_prompts(str(tmp_path / name)) == ["a cat", 'a "dog"']


def test_bad_prompt_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\na cat\n")
    with pytest.raises(UserError, match="no column prompt or caption; it has text"):
        generate.read_prompts(str(tmp_path / "a.csv"))
    (tmp_path / "b.jsonl").write_text('{"prompt": "a"}\n{"prompt": null}\n')
    with pytest.raises(UserError, match="row 1: caption is null"):
        generate.read_prompts(str(tmp_path / "b.jsonl"))
    with pytest.raises(UserError, match="no such file"):
        generate.read_prompts(str(tmp_path / "c.txt"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not beside this checkout")
def test_parti_prompts() -> None:
    assert len(generate.read_prompts(str(SHARED / "PartiPrompts.tsv"))) == 1632


def test_wanted_images_are_numbered_per_caption_and_seeded_apart() -> None:
    wanted = generate.wanted_images(["a", "b", "a"], 2, seed=0)
    assert wanted["image_index"].to_pylist() == [0, 1, 0, 1, 2, 3]
    assert len(set(wanted["image_id"].to_pylist())) == 6
    assert len(set(wanted["image_seed"].to_pylist())) == 6
    assert image_seed(0, 0, "a") != image_seed(1, 0, "a")


def test_an_image_does_not_depend_on_its_batch() -> None:
    pipeline = load_pipeline(MODEL, score.torch.float32, "cpu")
    captions = ["a big red circle on a teal background", "a small white cross on a black background"]
    both = draw_images(pipeline, captions, [5, 6], 4, 3.0)
    alone = draw_images(pipeline, captions[1:], [6], 4, 3.0)
    assert np.abs(np.asarray(both[1], int) - np.asarray(alone[0], int)).max() <= 2  # rounding of another batch size


def test_generate_and_score_on_a_cluster(submit: Submit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text(
        "a big red circle on a teal background\na big white ring on a black background\n"
    )
    config = generate.GenerateConfig(
        prompts=str(tmp_path / "prompts.txt"), output=str(tmp_path / "images"), images_per_prompt=2, sampling_steps=8
    )
    flags = ["--prompts", config.prompts, "--output", config.output]
    submit("pipelines/generate.py", *flags, "--images-per-prompt", "2", "--sampling-steps", "8")
    table = generate.read_images(config.output)
    assert table.num_rows == 4
    assert Image.open(io.BytesIO(table["image"][0].as_py())).size == (64, 64)
    generate.main(config)
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(UserError, match="another seed"):
        generate.main(replace(config, seed=3))
    submit("pipelines/score.py", "--images", config.output)
    scores = score.read_scores(config.output)
    assert scores.num_rows == 4
    assert np.isfinite(scores["oracle"].to_numpy()).all()
    score.main(score.ScoreConfig(images=(config.output,)))
    assert "already scored" in capsys.readouterr().out
