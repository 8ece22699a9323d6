"""The fifth scorer: Eq. 40's sign and arithmetic, draws shared by a caption, and which reference it takes."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.bitsandbytes_apart import needs_bitsandbytes
from support.material import MODEL, rendered_pairs
from support.trained_models import lora_result

from infra.base import files
from infra.base.errors import UserError
from infra.base.models import Model
from labelers.scoring import implicit, implicit_folders, scorers
from pipelines.drawing import generate
from pipelines.drawing.generate_config import GenerateConfig
from pipelines.latents.captions import CaptionEncoder
from pipelines.latents.encoders import LatentEncoder
from pipelines.raw.decode import decode_image, open_image
from pipelines.raw.pairs import prompt_id
from training.backbones.diffusion import StableDiffusion
from training.layout.base_precision import FrozenLinear
from training.method.draws import REWARD_SEED, draw

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the base model whose network is a little off."""
    folder = tmp_path_factory.mktemp("policy") / "result"
    shutil.copytree(MODEL, folder)
    network = StableDiffusion(folder).load_network()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter) * parameter.std(correction=0))
    network.save_pretrained(folder / "unet", safe_serialization=True)
    (folder / "facts.json").write_text(json.dumps({"config": {"model": str(MODEL), "objective": {"beta": 300.0}}}))
    return folder


def shown(number: int) -> tuple[list[Image.Image], str, list[bytes]]:
    row = rendered_pairs(number + 1)[number]
    contents = [row["jpg_0"], row["jpg_1"]]
    return [open_image(content) for content in contents], row["caption"], contents


def test_the_score_is_minus_half_beta_times_the_mean_difference_of_errors(policy: Path) -> None:
    images, caption, contents = shown(1)
    scores = implicit.Implicit(str(policy)).score(images, [caption, caption])

    backbone = StableDiffusion(MODEL)
    trained = StableDiffusion(policy).load_network()
    base = backbone.load_network()
    expected = []
    encoded = CaptionEncoder(Model(str(MODEL)), 4, "float32").encode([caption])["text_encoder"]
    hidden = torch.from_numpy(encoded.astype(np.float32))
    for content in contents:
        encoder = LatentEncoder(Model(str(MODEL)), 64, "mean", False, 0, 4, "float32")
        clean = encoder.encode(decode_image(content, 64)[None], np.zeros(1, np.int64), 0).astype(np.float32)
        x = torch.from_numpy(clean).view(1, 4, 8, 8)
        differences = []
        for index in range(10):
            visit = draw(REWARD_SEED, index, prompt_id(caption), (4, 8, 8), backbone.timestep)
            t = torch.tensor([visit.timestep])
            noise = torch.from_numpy(visit.noise)[None]
            noisy = backbone.add_noise(x, noise, t)
            target = backbone.target(x, noise, t)
            with torch.no_grad():
                e_policy = (backbone.predict(trained, noisy, t, {"text_encoder": hidden}) - target).square().mean()
                e_reference = (backbone.predict(base, noisy, t, {"text_encoder": hidden}) - target).square().mean()
            differences.append(float(e_policy - e_reference))
        expected.append(-150.0 * float(np.mean(differences)))
    assert scores == pytest.approx(expected, rel=1e-3)
    assert abs(expected[0]) > 0.01  # the networks do differ


def test_a_model_is_no_better_than_itself() -> None:
    images, caption, _ = shown(0)
    assert implicit.Implicit(f"{MODEL},{MODEL}").score(images, [caption] * 2).tolist() == [0.0, 0.0]


def test_a_score_does_not_depend_on_its_batch(policy: Path) -> None:
    (a, _), first, _ = shown(0)
    (b, c), second, _ = shown(1)
    scorer = implicit.Implicit(str(policy))
    together = scorer.score([b, a, c], [second, first, second])
    assert together[[0, 2]] == pytest.approx(scorer.score([b, c], [second] * 2), rel=1e-3, abs=1e-4)


def test_long_captions_are_counted(policy: Path) -> None:
    assert implicit.Implicit(str(policy)).truncated(["a red star", "a red star " * 60]) == 1


def test_the_reference_is_what_the_policy_started_from(policy: Path, tmp_path: Path) -> None:
    folders = implicit_folders.Folders.find(str(policy))
    assert (folders.policy, folders.reference, folders.beta) == (policy, MODEL, 300.0)
    assert implicit_folders.Folders.find(f"{policy},{policy}").reference == policy
    plain = tmp_path / "plain"
    shutil.copytree(MODEL, plain)
    assert implicit_folders.Folders.find(str(plain)).reference == MODEL
    assert implicit.Implicit(str(policy)).fingerprint != implicit.Implicit(f"{policy},{policy}").fingerprint


@pytest.mark.parametrize(
    ("objective", "beta"),
    [
        ({}, implicit_folders.BETA),
        ({"beta": 300.0}, 300.0),
        ({"objective": "kto", "beta": 300.0}, 300.0),
        ({"objective": "mapo", "beta": 300.0}, implicit_folders.BETA),
        ({"objective": "sft", "beta": 300.0}, implicit_folders.BETA),
        ({"beta": 300.0, "error": "eps"}, implicit_folders.BETA),
        ({"beta": 300.0, "weighting": "min-snr"}, implicit_folders.BETA),
    ],
)
def test_beta_is_the_policys_where_it_means_anything(objective: dict[str, object], beta: float) -> None:
    assert implicit_folders.trained_beta(objective) == beta


def test_no_policy_and_a_foreign_reference_are_refused(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--weights implicit=POLICY"):
        scorers.check("implicit")
    with pytest.raises(UserError, match="no model_index"):
        scorers.check("implicit", str(tmp_path))
    other = tmp_path / "other"
    shutil.copytree(MODEL, other)
    config = json.loads((other / "text_encoder" / "config.json").read_text())
    (other / "text_encoder" / "config.json").write_text(json.dumps(config | {"eos_token_id": 7}))
    with pytest.raises(UserError, match="another text_encoder"):
        scorers.check("implicit", f"{policy},{other}")


def test_a_lora_result_scores_as_its_policy_merged_into_the_base(tmp_path: Path, bucket: str) -> None:
    lora, network = lora_result(tmp_path / "lora")
    merged = shutil.copytree(MODEL, tmp_path / "merged")
    network.fuse_lora()
    network.unload_lora()
    network.save_pretrained(merged / "unet", safe_serialization=True)
    shutil.copy(lora / "facts.json", merged)
    images, caption, _ = shown(1)
    adapted = implicit.Implicit(str(lora))
    whole = implicit.Implicit(str(merged))
    assert (adapted.folders.policy, adapted.folders.reference, adapted.folders.beta) == (MODEL, MODEL, 300.0)
    scores = adapted.score(images, [caption] * 2)
    assert scores == pytest.approx(whole.score(images, [caption] * 2), rel=1e-2)
    assert abs(scores[0]) > 0.01
    assert adapted.fingerprint != implicit.Implicit(f"{MODEL},{MODEL}").fingerprint
    for file in lora.iterdir():
        files.copy(str(file), f"{bucket}/{tmp_path.name}/{file.name}")
    remote = implicit.Implicit(f"{bucket}/{tmp_path.name}")
    assert (remote.folders.beta, remote.fingerprint) == (300.0, adapted.fingerprint)
    (lora / "facts.json").unlink()
    with pytest.raises(UserError, match=r"has no facts\.json that names the base"):
        scorers.check("implicit", str(lora))


@pytest.mark.usefixtures("beside_bitsandbytes")
@pytest.mark.parametrize("precision", ["fp8", pytest.param("nf4", marks=[needs_bitsandbytes, pytest.mark.slow])])
def test_adapters_beside_packed_weights_are_scored_beside_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora, _ = lora_result(tmp_path / "lora")
    images, caption, _ = shown(1)
    plain = implicit.Implicit(str(lora))
    fingerprint = plain.fingerprint
    facts = json.loads((lora / "facts.json").read_text())
    facts["config"]["policy"] = {"base_precision": precision}
    (lora / "facts.json").write_text(json.dumps(facts))
    beside = implicit.Implicit(str(lora))
    assert beside.fingerprint != fingerprint
    scores = beside.score(images[:1], [caption])
    for network in beside.loaded.networks:
        packed = [layer for layer in network.modules() if isinstance(layer, FrozenLinear)]
        assert packed
        assert {layer.precision for layer in packed} == {precision}
    # Policy and reference differ by the adapters alone in either, so the scores are near each other.
    assert scores == pytest.approx(plain.score(images[:1], [caption]), rel=0.25)
    generate.say_precision(lora, GenerateConfig(lora=str(lora), dtype="bfloat16"))
    assert f"trained beside weights in {precision}; the images are drawn with the model's own weights in bfloat16" in (
        capsys.readouterr().out
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    if precision == "nf4":
        with pytest.raises(UserError, match=r"--weights implicit=.*: this worker lacks the package bitsandbytes"):
            scorers.check("implicit", str(lora))


@pytest.mark.parametrize(("named", "known"), [(None, "float32"), ("bfloat16", "float32"), ("nf4", "nf4")])
def test_bfloat16_beneath_adapters_is_no_other_model(named: str | None, known: str) -> None:
    config = {"policy": {"base_precision": named}} if named else {}
    assert implicit_folders.trained_beside(config) == known
