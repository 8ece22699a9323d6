"""The safety checker's flags are those of diffusers' class; its files are refused before their weights are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.safety_material import BLUE, GREEN, RED, RED_CONCEPT, SIDE, as_pipeline, embeddings, write_checker

from infra.base.errors import UserError
from labelers.clips import weights
from labelers.clips.safety_checker import (
    PUBLISHED,
    CheckerName,
    SafetyChecker,
    StableDiffusionSafetyChecker,
    checker_name,
    concept_scores,
    count_checker,
)

IMAGES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 40, 3), np.uint8).repeat(2, 1))
    for seed in range(12)
] + [Image.new("RGB", (64, 64), colour) for colour in (RED, GREEN, BLUE)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checker(tmp_path_factory.mktemp("checker"))


@pytest.fixture
def strict(folder: Path, tmp_path: Path) -> Path:
    """Return a checker whose thresholds lie in the middle of what these images score, in all 17 + 3 concepts."""
    shutil.copytree(folder, tmp_path / "strict")
    path = tmp_path / "strict/model.safetensors"
    state = load_file(path)
    unit = torch.nn.functional.normalize(embeddings(folder, IMAGES))
    for name, quantile in (("concept_embeds", 0.9), ("special_care_embeds", 0.8)):
        cosines = unit @ torch.nn.functional.normalize(state[name]).T
        state[f"{name}_weights"] = torch.quantile(cosines, quantile, dim=0)
    save_file(state, path, metadata={"format": "pt"})
    return tmp_path / "strict"


def checker(folder: Path, batch_size: int = 4) -> SafetyChecker:
    return SafetyChecker(CheckerName(str(folder)).files(), batch_size)


def test_flags_are_those_of_diffusers_class(strict: Path) -> None:
    ours = checker(strict)
    theirs = StableDiffusionSafetyChecker.from_pretrained(strict).eval()
    pixels = ours.files.preprocess(IMAGES)
    shown = torch.ones(len(IMAGES), 1)
    _, flagged = theirs(clip_input=pixels, images=shown)
    assert [concept is not None for concept in ours.concepts(IMAGES)] == flagged
    assert True in flagged
    assert False in flagged
    assert (shown == 0).any()  # theirs blackens what it is given; ours is given nothing to blacken


def test_special_care_by_hand() -> None:
    class Network:
        concept_embeds = torch.tensor([[1.0, 0.0]])
        special_care_embeds = torch.tensor([[0.0, 1.0]])
        concept_embeds_weights = torch.tensor([0.605])
        special_care_embeds_weights = torch.tensor([0.79])

    # (3, 4) / 5: cosines 0.6 and 0.8. 0.8 is over 0.79, so the concept scores 0.6 - 0.605 + 0.01 = 0.005, else -0.005.
    assert concept_scores(torch.tensor([[3.0, 4.0]]), Network) == pytest.approx(0.005, abs=1e-6)  # type: ignore[arg-type]
    Network.special_care_embeds_weights = torch.tensor([0.81])
    assert concept_scores(torch.tensor([[3.0, 4.0]]), Network) == pytest.approx(-0.005, abs=1e-6)  # type: ignore[arg-type]
    Network.concept_embeds_weights = torch.tensor([0.5996])  # 0.0004 rounds to 0, which is not above 0
    assert concept_scores(torch.tensor([[3.0, 4.0]]), Network) == 0  # type: ignore[arg-type]


def test_a_flag_does_not_depend_on_its_company(folder: Path) -> None:
    alone = np.concatenate([checker(folder).scores([image]) for image in IMAGES])
    assert np.array_equal(checker(folder).scores(IMAGES), alone)
    assert checker(folder).concepts(IMAGES[-3:]) == [RED_CONCEPT, None, None]
    assert checker(folder).scores([]).shape == (0, 17)


def test_a_pipeline_of_older_names_is_the_same_checker(folder: Path, tmp_path: Path) -> None:
    pipeline = as_pipeline(folder, tmp_path / "pipeline")
    for path in (pipeline, pipeline / "safety_checker"):
        broken = checker(path)
        broken.check()
        assert np.array_equal(broken.scores(IMAGES), checker(folder).scores(IMAGES))


def test_another_weight_or_threshold_is_another_fingerprint(folder: Path, strict: Path) -> None:
    assert checker(folder).fingerprint == checker(folder, 7).fingerprint != checker(strict).fingerprint


def test_what_is_no_checker_is_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    def changed(name: str) -> Path:
        shutil.copytree(folder, tmp_path / name)
        return tmp_path / name

    pickled = changed("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no model\.safetensors, and pickled weights are not loaded"):
        checker(pickled).check()
    disguised = changed("disguised")
    (disguised / "model.safetensors").write_bytes(b"\x80\x04not tensors")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        checker(disguised).check()
    other = changed("other")
    state = load_file(other / "model.safetensors")
    save_file({name: value for name, value in state.items() if name != "concept_embeds"}, other / "model.safetensors")
    with pytest.raises(UserError, match="not the weights of a safety checker: no tensor concept_embeds"):
        checker(other).check()
    bare = changed("bare")
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"neither preprocessor_config\.json nor processor_config\.json"):
        checker(bare).check()
    strange = changed("strange")
    (strange / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="model_type is 'bert'"):
        checker(strange).check()


def test_names(tmp_path: Path) -> None:
    assert checker_name(weights.PUBLISHED, None) == CheckerName(*PUBLISHED)
    with pytest.raises(UserError, match="main: --safety-checker published has a pinned revision"):
        checker_name(weights.PUBLISHED, "main")
    for name in (str(tmp_path / "nowhere"), "s3://bucket/checker", "plain"):
        with pytest.raises(UserError, match="neither a local folder nor a Hub name"):
            CheckerName(name).files()
    with pytest.raises(UserError, match=r"not in the local cache.*give a local path with --safety-checker"):
        CheckerName("nobody/nothing").files()  # offline


def test_a_hub_name_is_pinned_to_its_commit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = as_pipeline(folder, tmp_path / "snapshots" / "abc123")
    monkeypatch.setattr(weights, "hub_folder", lambda *_: snapshot)
    assert CheckerName("owner/pipeline").pinned() == CheckerName("owner/pipeline", "abc123")
    assert CheckerName(str(folder)).pinned() == CheckerName(str(folder))


def test_work_is_counted_on_the_meta_device(folder: Path) -> None:
    parameters, flops = count_checker(checker(folder).files.config())
    # 17 x 8 and 3 x 8 concepts with their thresholds; class token, patches, positions; projection; two layers, norms.
    layer = 4 * (16 * 16 + 16) + (16 * 32 + 32) + (32 * 16 + 16) + 2 * 2 * 16
    patches = (SIDE // 8) ** 2
    assert parameters == 20 * 9 + 16 + 3 * 64 * 16 + (patches + 1) * 16 + 16 * 8 + 2 * layer + 2 * 2 * 16
    assert flops > 2 * patches * 3 * 64 * 16
