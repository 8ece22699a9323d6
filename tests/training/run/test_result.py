"""The result's folder and card: what it carries along, and that the card's own lines run."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.base import torchvision_guard  # noqa: F401  # isort: skip  (before peft and diffusers)
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save
from support.material import MODEL
from support.single_files import original_tensors, write_single
from support.tiny_pipelines import KINDS
from support.trained_models import lora_result

from infra.base.models import ADAPTERS
from pipelines.latents.kinds import text_tokens
from training.backbones.backbone import open_backbone
from training.backbones.schedule_config import EVERY
from training.method.policy_config import PolicyConfig
from training.run import card, result
from training.settings.config import TrainConfig

from diffusers import DiffusionPipeline  # isort: skip

pytestmark = pytest.mark.slow

FACTS = {
    "best_step": 1,
    "reference": "none",
    "store_hash": "s",
    "labels_hash": "l",
    "prediction_type": "epsilon",
}


WITHOUT_T5 = {"sd3-without-t5": ("text_encoder_3", "tokenizer_3")}


def run_card(config: TrainConfig, folder: Path, left_out: tuple[str, ...] = (), **more: Any) -> Any:
    """Run the lines of Python on a card in a result's folder, and return the image that they end with."""
    facts = FACTS | {"config": asdict(config)} | more
    said = card.fill(config, config.start.folder(()), facts, pairs=1, left_out=left_out)
    lines = re.findall(r"```python\n(.*?)```", said, re.DOTALL)
    assert len(lines) == 1
    names: dict[str, Any] = {}
    with contextlib.chdir(folder):
        exec(lines[0].replace("num_inference_steps=20", "num_inference_steps=2"), names)
    return names["image"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_card_s_lines_run_over_a_base_in_half_precision(
    kind: str, tiny_pipeline: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    left_out = WITHOUT_T5.get(kind, ())
    pipeline = DiffusionPipeline.from_pretrained(tiny_pipeline(kind), dtype=torch.float16, **dict.fromkeys(left_out))
    pipeline.save_pretrained(base)  # every part in float16, as most published SDXL, SD3 and FLUX folders
    backbone = open_backbone(base, EVERY)
    folder = tmp_path / "result"
    folder.mkdir()
    result._write_pipeline(folder, backbone, backbone.load_network())  # the trained network is float32
    tokens = 0 if left_out else text_tokens(base, None)
    image = run_card(TrainConfig(model=str(base)), folder, left_out, max_tokens=tokens)
    assert image.size[0] == image.size[1] > 0


def test_the_card_s_lines_run_for_adapters(tmp_path: Path) -> None:
    folder, _ = lora_result(tmp_path / "lora")
    config = TrainConfig(model=str(MODEL), policy=PolicyConfig(lora_rank=4))
    assert run_card(config, folder).size == (64, 64)
    assert run_card(config, folder, resolution=32).size == (32, 32)


def test_the_card_names_the_base_s_hub_name_licence_and_samples(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "X", "_name_or_path": "owner/base"}')
    (tmp_path / "README.md").write_text("---\nlicense: openrail\n---\n# Base\n")
    config = TrainConfig(model=str(tmp_path))
    facts = FACTS | {"config": asdict(config)}
    header = card.fill(config, tmp_path, facts, pairs=1, samples=True)
    assert "base_model: owner/base\nbase_model_relation: finetune\nlicense: openrail\n" in header
    assert "](samples.png)" in header
    assert f"| made with | torch {version('torch')}, torchvision " in header
    (tmp_path / "model_index.json").write_text('{"_class_name": "X"}')
    (tmp_path / "README.md").write_text("no header\n")
    plain = card.fill(config, tmp_path, facts, pairs=1)
    assert "base_model" not in plain
    assert "The licence of the base model applies." in plain


def test_files_of_a_result_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    weights = tmp_path / "unet" / "a.safetensors"
    weights.touch(0o600)
    umask = os.umask(0o027)
    try:
        result._follow_umask(tmp_path)
    finally:
        os.umask(umask)
    assert weights.stat().st_mode & 0o777 == 0o640


def test_a_result_leaves_pickles_and_copies_of_the_base_behind(tmp_path: Path) -> None:
    base = tmp_path / "base"
    DiffusionPipeline.from_pretrained(MODEL).save_pretrained(base)
    opened = "diffusion_pytorch_model.safetensors"
    for name in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"):
        (base / "vae" / name).write_bytes((base / "vae" / opened).read_bytes())
    backbone = open_backbone(base, EVERY)
    folder = tmp_path / "result"
    folder.mkdir()
    result._write_pipeline(folder, backbone, backbone.load_network())
    assert sorted(path.name for path in (folder / "vae").iterdir()) == ["config.json", opened]
    assert (folder / "tokenizer").is_dir()


@pytest.mark.parametrize("added", ["file", "network"])
def test_the_card_s_lines_run_for_adapters_of_a_model_of_two_places(added: str, tmp_path: Path) -> None:
    """The card opens BASE+FILE, and a base with a network of its own, with diffusers alone."""
    folder, _ = lora_result(tmp_path / "lora")
    place = write_single(tmp_path / "x.safetensors", original_tensors(MODEL)) if added == "file" else MODEL / "unet"
    config = TrainConfig(model=f"{MODEL}+{place}", policy=PolicyConfig(lora_rank=4))
    assert run_card(config, folder).size == (64, 64)


def test_the_scale_of_adapters_is_in_their_weights(tmp_path: Path) -> None:
    """Alpha 8 over rank 4 is a factor of 2: in B, not in settings that only one library reads."""
    folder, policy = lora_result(tmp_path / "lora", alpha=8)
    saved = load_file(folder / ADAPTERS)
    for name, weight in get_peft_model_state_dict(policy).items():
        assert torch.equal(saved[f"unet.{name}"], 2 * weight if "lora_B" in name else weight)
    ways: list[Any] = [str(folder), dict(saved)]  # with its settings, and as readers see it that know none
    predictions = []
    for given in ways:
        pipeline = DiffusionPipeline.from_pretrained(MODEL)
        pipeline.load_lora_weights(given)
        predictions.append(predict(pipeline.unet))
    assert torch.equal(predictions[0], predictions[1])
    assert torch.equal(predictions[0], predict(policy))
    assert not torch.equal(predictions[0], predict(DiffusionPipeline.from_pretrained(MODEL).unet))


def predict(unet: Any) -> torch.Tensor:
    """Return what a UNet of the embedded model predicts for one noisy latent."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    captions = torch.randn(1, 16, unet.config["cross_attention_dim"], generator=generator)
    with torch.no_grad():
        return unet(latents, 10, captions).sample


def test_equal_weights_with_metadata_in_another_order_are_equal_files(tmp_path: Path) -> None:
    data = save({"weight": torch.arange(4.0)}, {"b": "2"})
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].decode()
    for number, order in enumerate(('"a":"1","b":"2"', '"b":"2","a":"1"')):
        text = header.replace('"b":"2"', order).strip().encode()
        (tmp_path / f"{number}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
        result.sort_metadata(tmp_path / f"{number}.safetensors")
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "1.safetensors").read_bytes()
    with safe_open(str(tmp_path / "0.safetensors"), "pt") as opened:
        assert opened.metadata() == {"a": "1", "b": "2"}
        assert opened.get_tensor("weight").tolist() == [0.0, 1.0, 2.0, 3.0]
