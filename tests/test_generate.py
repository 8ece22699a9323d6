"""Prompts are read from every format; start noise is a function of seed, index and caption."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
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


def test_images_are_scored_by_tiny_models() -> None:
    captions = ["a big red circle on a teal background", "a small white cross on a black background"]
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(buffer, format="PNG")
    columns = {"image_id": [1, 2], "caption": captions, "image_index": [0, 0], "image": [buffer.getvalue()] * 2}
    scores = score.ScoreImages({"clip": None, "oracle": "published"})(pa.table(columns))
    assert scores.column_names == ["image_id", "caption", "image_index", "clip", "oracle"]
    assert scores["clip"][0].as_py() > scores["clip"][1].as_py()  # teal is half of what the first caption says


def test_generate_and_score_on_a_cluster(submit: Submit, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(
        "a big red circle on a teal background\na big white ring on a black background\n"
    )
    output = tmp_path / "images"
    flags = [
        "--prompts",
        str(tmp_path / "prompts.txt"),
        "--output",
        str(output),
        "--images-per-prompt",
        "2",
        "--sampling-steps",
        "8",
    ]
    submit("pipelines/generate.py", *flags)
    table = generate.read_images(str(output))
    assert table.num_rows == 4
    assert Image.open(io.BytesIO(table["image"][0].as_py())).size == (64, 64)
    assert "already finished" in submit("pipelines/generate.py", *flags).stdout
    assert "another seed" in submit("pipelines/generate.py", *flags, "--seed", "3", check=False).stdout
    submit("pipelines/score.py", "--images", str(output))
    scores = score.read_scores(str(output))
    assert scores.num_rows == 4
    assert np.isfinite(scores["oracle"].to_numpy()).all()
    assert "already scored" in submit("pipelines/score.py", "--images", str(output)).stdout
