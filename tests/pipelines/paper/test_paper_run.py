"""What make paper left: read as it is, and refused by name where it is missing or not what its name says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import paper_folder
from support.paper_folder import change, means

from infra.base.errors import UserError
from pipelines.paper import paper_run
from pipelines.paper.paper_run import DPO, SFT, captions, read_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with paper_folder.written(tmp_path_factory.mktemp("paper")) as run:
        yield run


def facts_of(run: str, name: str) -> Path:
    return Path(run, "sweep", name, "seed-0", "train", "result", "facts.json")


def test_points_are_by_trial_judge_and_seed(made: str) -> None:
    run = read_run(made)
    # Of six captions seed 0 ties on one and seed 1 on two; the policy wins the others, SFT loses them.
    assert means(run.points[DPO]["oracle"]) == means(run.points[DPO]["fidelity"]) == [0.9167, 0.8333]
    assert means(run.points[SFT]["oracle"]) == [0.0833, 0.1667]
    assert run.medians(DPO)["oracle"] == {"base": 122.5, "policy": 142.5, "per_seed": [142.5, 142.5]}
    assert (run.seeds, run.judges[:2]) == ([0, 1], ["oracle", "fidelity"])


def test_captions_are_counted_and_disjoint(made: str) -> None:
    assert captions(read_run(made)) == {"training": 16, "checkpoint selection": 1, "test": 6, "held-out": 8}


@pytest.mark.parametrize(
    ("caption", "kinds"),
    [("store caption 3", "both training and checkpoint selection"), (paper_folder.CAPTIONS[2], "both checkpoint")],
)
def test_a_caption_on_two_sides_is_refused(made: str, caption: str, kinds: str) -> None:
    path = Path(made, "validation.txt")
    path.write_text(f"{caption}\n")
    with pytest.raises(UserError, match=kinds):
        captions(read_run(made))
    path.write_text("picked by this\n")


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("sweep/sweep.json", "sweep.json: there is no such file, so this part is not finished; run make paper again"),
        ("steps.json", "steps.json: there is no such file"),
        (
            "weaker_store/manifest.json",
            "weaker_store/manifest.json: there is no such file, so the store is not finished",
        ),
        ("sweep/clip/seed-1/images/manifest.json", "clip/seed-1/images: no finished images here"),
        (
            "sweep/clip/seed-1/images/scores/fidelity/manifest.json",
            "clip/seed-1/images: fidelity has not scored these images",
        ),
        ("sweep/sft/seed-0/train/result/facts.json", "sft/seed-0/train: this run is not finished"),
    ],
)
def test_a_missing_part_is_named(made: str, missing: str, told: str) -> None:
    path = Path(made, missing)
    kept = path.rename(path.with_suffix(".kept"))
    with pytest.raises(UserError, match=told):
        read_run(made)
    kept.rename(path)


def test_a_missing_trial_or_a_single_seed_is_refused(made: str) -> None:
    path = f"{made}/sweep/sweep.json"
    told = json.loads(Path(path).read_text())
    change(path, trials=told["trials"][1:])
    with pytest.raises(UserError, match="the trial beta-50 of seed 0 is missing; run make paper again"):
        read_run(made)
    change(path, trials=told["trials"], seeds=[0])
    with pytest.raises(UserError, match="it has one seed"):
        read_run(made)
    change(path, seeds=[0, 1], judges=["oracle"])
    with pytest.raises(UserError, match="fidelity has not judged it"):
        read_run(made)
    change(path, judges=told["judges"], schema_version=9)
    with pytest.raises(UserError, match="schema version 9"):
        read_run(made)
    change(path, schema_version=paper_run.SCHEMA_VERSION)


@pytest.mark.parametrize(
    ("name", "group", "key", "value", "told"),
    [
        ("beta-50", "objective", "beta", 60.0, "the trial beta-50 of seed 0 was trained with beta 60.0, not 50"),
        ("beta-50-scaled", "optimizer", "learning_rate", 1e-5, "learning rate 1e-05, not 0.0001"),
        ("plain-x3", "optimizer", "learning_rate", 1e-5, "learning rate 1e-05, not 3"),
        ("safeguard-x10", "objective", "safeguard", 0.5, "safeguard 0.5, not 0.9"),
        ("sft-weight-x1", "objective", "sft_weight", 0.0, "sft-weight none, not 12.5"),
        ("auto-beta-x3", "objective", "beta", 500.0, "beta 500.0, not auto"),
        ("plain-x10", "objective", "beta", "auto", "beta auto, not 500"),
        ("sft", "objective", "objective", "dpo", "objective dpo, not sft"),
        ("weaker", None, "seed", 5, "seed 5, not 0"),
        ("clip", "data", "labels", "human", "trained on the labels human, not clip"),
    ],
)
def test_a_trial_that_is_not_what_its_name_says_is_refused(
    made: str, name: str, group: str | None, key: str, value: object, told: str
) -> None:
    path = facts_of(made, name)
    before = path.read_text()
    facts = json.loads(before)
    (facts["config"] if group is None else facts["config"][group])[key] = value
    path.write_text(json.dumps(facts))
    with pytest.raises(UserError, match=told):
        read_run(made)
    path.write_text(before)


def test_labels_that_changed_after_training_are_refused(made: str) -> None:
    path = f"{made}/store/labels/clip/manifest.json"
    before = Path(path).read_text()
    change(path, sha256="another")
    with pytest.raises(UserError, match="the label set clip changed after"):
        read_run(made)
    Path(path).write_text(before)


def test_images_from_other_noise_are_refused(made: str) -> None:
    path = Path(made, "sweep", DPO, "seed-1", "images")
    kept = path.rename(path.with_name("kept"))
    paper_folder.write_scored(path, paper_folder.colours_of(1, 1, 0), seed=5)
    with pytest.raises(UserError, match="were drawn with different seed"):
        read_run(made)
    shutil.rmtree(path)
    kept.rename(path)
