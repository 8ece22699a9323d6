"""A scorer's scores stay when others are added; what is missing shares one pass; bad input is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support import judging_material
from support.judging_material import TOLD, score_folders, write_images

from infra.base import files
from infra.base.errors import UserError
from pipelines.drawing.image_sets import image_ids
from pipelines.engine import in_process
from pipelines.engine.jobs import Job
from pipelines.judging import score_files
from pipelines.judging.set_judges import judge_set, kid
from pipelines.latents import store

COLOURS = {"a": [(10, 200, 0), (20, 100, 0)], "b": [(30, 0, 0), (40, 50, 0)]}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    judging_material.name_scorers(monkeypatch)


def test_each_scorer_has_its_folder_and_missing_ones_share_a_pass(tmp_path: Path) -> None:
    path = write_images(tmp_path / "images", COLOURS)
    score_folders(path, names=("red",))
    assert TOLD == ["Red 4"]
    before = (tmp_path / "images/scores/red/manifest.json").read_bytes()
    score_folders(path, names=("red", "green"))
    assert TOLD == ["Red 4", "Green 4"]  # red was not asked again
    assert (tmp_path / "images/scores/red/manifest.json").read_bytes() == before
    score_folders(path, names=("green",))
    assert len(TOLD) == 2
    scores = score_files.read_scores(path)
    assert sorted(zip(scores["red"].to_pylist(), scores["green"].to_pylist(), strict=True)) == [
        (10.0, 200.0), (20.0, 100.0), (30.0, 0.0), (40.0, 50.0),
    ]  # fmt: skip
    assert np.array_equal(image_ids(scores), np.sort(image_ids(scores)))
    assert not (tmp_path / "images" / store.WORK).exists()


def test_a_scorer_that_has_changed_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_images(tmp_path / "images", COLOURS)
    score_folders(path, names=("red", "green"))
    monkeypatch.setattr(judging_material.Red, "fingerprint", "other weights")
    score_folders(path, names=("red", "green"))
    assert TOLD == ["Red 4", "Green 4", "Red 4"]
    manifest = files.read_json(f"{path}/scores/red/manifest.json")
    assert manifest["identity"]["fingerprint"] == "other weights"
    assert manifest["config"]["scorers"] == ["red", "green"]


def test_a_killed_pass_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_images(tmp_path / "images", COLOURS)

    def killed(*_: object) -> None:
        Path(path, store.WORK, "half-done").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(in_process, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            score_folders(path, names=("red",))
    seen: list[bool] = []
    run = in_process.run

    def look(job: Job) -> None:
        seen.append(Path(path, store.WORK, "half-done").exists())
        run(job)

    monkeypatch.setattr(in_process, "run", look)
    score_folders(path, names=("red",))
    assert seen == [True]  # the same question finds the work of the killed pass


def test_work_of_other_scorers_is_not_taken_for_this_pass(tmp_path: Path) -> None:
    path = write_images(tmp_path / "images", COLOURS)
    files.write_json(f"{path}/{store.WORK}/config.json", {"green": {}})
    Path(path, store.WORK, "scores").mkdir()
    Path(path, store.WORK, "scores", "0.parquet").write_bytes(b"of another pass")
    score_folders(path, names=("red",))
    assert score_files.read_scores(path).column_names == ["image_id", "caption", "image_index", "red"]


def test_scores_of_other_images_do_not_count(tmp_path: Path) -> None:
    path = write_images(tmp_path / "images", COLOURS)
    score_folders(path)
    manifest = files.read_json(f"{path}/manifest.json")
    files.write_json(f"{path}/manifest.json", manifest | {"identity": manifest["identity"] | {"seed": 1}})
    with pytest.raises(UserError, match="not scored yet"):
        score_files.read_scores(path)
    score_folders(path)
    assert TOLD == ["Red 4", "Red 4"]


def test_changed_scores_are_noticed(tmp_path: Path) -> None:
    path = write_images(tmp_path / "images", COLOURS)
    score_folders(path)
    with open(f"{path}/scores/red/scores.parquet", "ab") as file:
        file.write(b" ")
    with pytest.raises(UserError, match=r"red/scores\.parquet: its contents differ from its manifest; delete"):
        score_files.read_scores(path)


def test_the_worlds_oracle_refuses_other_captions_before_any_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_images(tmp_path / "images", COLOURS)
    monkeypatch.delattr(in_process, "run")
    with pytest.raises(UserError, match=r"scorer oracle: '[ab]' is not a caption of the embedded world"):
        score_folders(path, names=("oracle",))


def test_a_score_that_is_no_number_names_its_caption(tmp_path: Path) -> None:
    path = write_images(tmp_path / "images", {"a cat": [(1, 2, 3)]})
    with pytest.raises(UserError, match="scorer broken: its score is not finite for an image of 'a cat'"):
        score_folders(path, names=("broken",))


def test_a_set_of_one_image_per_prompt_has_no_diversity(tmp_path: Path) -> None:
    path = write_images(tmp_path / "images", {"a": [(1, 2, 3)], "b": [(200, 2, 3)]})
    score_folders(path)
    found = json.loads(Path(path, "set.json").read_text(), parse_constant=pytest.fail)
    assert found["judged"] == {"images": 2}


def test_kid_is_least_for_the_true_images_themselves(tmp_path: Path) -> None:
    true = write_images(tmp_path / "true", {"a": [(10, 0, 0), (250, 0, 0)], "b": [(0, 250, 0), (0, 10, 0)]})
    other = write_images(tmp_path / "other", {"a": [(90, 90, 90), (99, 99, 99)], "b": [(95, 95, 95), (97, 97, 97)]})
    score_folders(true, other, true_images=true)
    near, far = score_files.read_set(true), score_files.read_set(other)
    assert near["kid"] < far["kid"]
    assert near["diversity"] > far["diversity"] > 0


def test_judge_set_by_hand() -> None:
    # One prompt with two images at distance 5; the other has one and does not count.
    features = np.array([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]], np.float32)
    assert judge_set(features, ["a", "a", "b"], None) == {"images": 3, "diversity": 5.0}


def test_paired_scores_take_the_first_image_of_each_prompt() -> None:
    table = pa.table({"image_id": [1, 2, 3], "image_index": [0, 1, 0], "red": [1.0, 9.0, 2.0]})
    ours, theirs = score_files.paired_scores(table, table.set_column(2, "red", [[3.0, 9.0, 4.0]]), "red")
    assert (ours.tolist(), theirs.tolist()) == ([1.0, 2.0], [3.0, 4.0])
    with pytest.raises(UserError, match="different prompts"):
        score_files.paired_scores(table, table.slice(0, 2), "red")


@pytest.mark.filterwarnings("error::UserWarning")  # of a library, which nobody at a terminal can act on
def test_kid_by_hand_and_with_a_spread() -> None:
    # Features of width 1: kernel (xy + 1)^3. Both sets constant, 0 and 1: (1 + 8 - 2 * 1) = 7, whatever the subset.
    zeros, ones = np.zeros((6, 1), np.float32), np.ones((6, 1), np.float32)
    assert kid(ones, zeros) == pytest.approx((7.0, 0.0))
    mixed = np.array([[0.0], [0.0], [0.0], [1.0], [1.0], [1.0]], np.float32)
    assert kid(mixed, zeros)[1] > 0
