"""Results in one file: diffusers' own readers of these formats open them as the folder that they were made of."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file
from support.material import MODEL
from support.tiny_pipelines import write_pipeline
from support.trained_models import lora_result

from infra.base import (
    named_files,
    result_files,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from training.backbones.backbone import open_backbone
from training.backbones.schedule_config import EVERY
from training.method.policy import make_policy, trained
from training.method.policy_config import PolicyConfig
from training.run import card, exports, finished_export, result, train_dpo
from training.settings.config import TrainConfig

import diffusers  # isort: skip

pytestmark = pytest.mark.slow

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def xl_with_adapters(folder: Path, tmp_path: Path) -> tuple[Path, Any]:
    """Write a LoRA result of SDXL's kind, moved off zero, alpha 6 over rank 4."""
    backbone = open_backbone(folder, EVERY)
    policy = make_policy(PolicyConfig(lora_rank=4, lora_alpha=6), backbone, seed=0)
    for name, weight in trained(policy).items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    tmp_path.mkdir()
    result.write_adapters(tmp_path, backbone, policy)
    return tmp_path, policy


@pytest.mark.parametrize("kind", ["world", "sdxl"])
def test_a_checkpoint_is_the_folder_again_for_diffusers(
    kind: str, tiny_pipeline: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = MODEL if kind == "world" else tiny_pipeline(kind)
    exports.check(folder, lora=False)
    wanted = diffusers.DiffusionPipeline.from_pretrained(folder)
    exports.write_checkpoint(folder, tmp_path / "x.safetensors")
    opened = type(wanted).from_single_file(str(tmp_path / "x.safetensors"), config=str(folder), local_files_only=True)
    for part in PARTS:
        if getattr(wanted, part, None) is not None:
            state = getattr(opened, part).state_dict()
            assert state.keys() == getattr(wanted, part).state_dict().keys()
            for name, value in getattr(wanted, part).state_dict().items():
                assert torch.equal(state[name], value), f"{part}.{name}"


def test_names_are_those_of_the_published_files(tiny_pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    """A few names that every SDXL file has, and each reader looks for."""
    exports.write_checkpoint(tiny_pipeline("sdxl"), tmp_path / "x.safetensors")
    tensors = load_file(tmp_path / "x.safetensors")
    for name, shape in {
        "model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3),
        "model.diffusion_model.label_emb.0.0.weight": (32, 34),  # time embedding of 4 * 8, from 10 + 6 * 4
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": (16, 20),
        "model.diffusion_model.output_blocks.1.2.conv.weight": (16, 16, 3, 3),
        "first_stage_model.encoder.mid.attn_1.q.weight": (8, 8, 1, 1),
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (8,),
        "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight": (36, 12),
        "conditioner.embedders.1.model.text_projection": (12, 10),
    }.items():
        assert tuple(tensors[name].shape) == shape, name


def test_a_file_of_sdxl_says_that_it_predicts_velocity(tiny_pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tiny_pipeline("sdxl"))
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(
        pipeline.scheduler.config, prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    pipeline.save_pretrained(tmp_path / "v")
    exports.write_checkpoint(tmp_path / "v", tmp_path / "x.safetensors")
    assert {"v_pred", "ztsnr"} <= load_file(tmp_path / "x.safetensors").keys()


@pytest.mark.parametrize("kind", ["world", "sdxl"])
def test_adapters_in_kohya_s_names_do_what_the_result_does(
    kind: str, tiny_pipeline: Callable[[str], Path], tmp_path: Path
) -> None:
    base = MODEL if kind == "world" else tiny_pipeline(kind)
    folder, policy = lora_result(tmp_path / "l") if kind == "world" else xl_with_adapters(base, tmp_path / "l")
    exports.write_kohya(folder, base, folder / "l.safetensors")
    tensors = load_file(folder / "l.safetensors")
    assert {name.rsplit(".", 1)[-1] for name in tensors} == {"alpha", "weight"}
    assert {value.item() for name, value in tensors.items() if name.endswith(".alpha")} == {4.0}  # the rank
    first = "lora_unet_input_blocks_" if kind == "sdxl" else "lora_unet_down_blocks_"
    assert any(name.startswith(first) for name in tensors)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(base)
    pipeline.load_lora_weights(str(folder), weight_name="l.safetensors")
    ours = dict(policy.named_parameters())
    theirs = dict(pipeline.unet.named_parameters())
    layers = [name.split(".lora_A.")[0] for name in ours if ".lora_A." in name]
    scale = policy.peft_config["default"].lora_alpha / 4
    for layer in layers:
        up, down = (ours[f"{layer}.lora_{end}.default.weight"] for end in "BA")
        (name,) = [one for one in theirs if one.startswith(f"{layer}.lora_A.")]
        again = theirs[name.replace("lora_A", "lora_B")] @ theirs[name]
        assert torch.allclose(again, scale * (up @ down), rtol=1e-6, atol=1e-7)
        assert dict(pipeline.unet.named_modules())[layer].scaling == {name.split(".")[-2]: 1.0}
    assert sum(".lora_A." in name for name in theirs) == len(layers)


@pytest.mark.parametrize(
    ("kind", "lora", "told"),
    [
        ("flux", False, "is for SD1.5's and SDXL's kind, and .* is a FluxPipeline; leave the flag out"),
        ("flux", True, "is for SD1.5's and SDXL's kind"),
        ("sd-v", False, "predicts v_prediction, which a file of SD1.5's kind cannot say"),
    ],
)
def test_what_no_reader_could_tell_is_refused(
    kind: str, lora: bool, told: str, tiny_pipeline: Callable[[str], Path]
) -> None:
    with pytest.raises(UserError, match=rf"^--export single-file: .*{told}"):
        exports.check(tiny_pipeline(kind), lora)


def test_sd2_s_text_encoder_is_refused(tmp_path: Path) -> None:
    folder = write_pipeline("sd-v", tmp_path / "x")
    config = folder / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"quick_gelu"', '"gelu"'))
    with pytest.raises(UserError, match="has SD2's text encoder"):
        exports.check(folder, lora=False)


@pytest.mark.parametrize("lora", [False, True])
def test_the_card_names_the_file_and_its_line_for_diffusers_runs(lora: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if lora:
        lora_result(folder)
    else:
        diffusers.DiffusionPipeline.from_pretrained(MODEL).save_pretrained(folder)
    exports.write(folder, MODEL, "run", lora)
    config = replace(TrainConfig(model=str(MODEL), export="single-file"), policy=PolicyConfig(lora_rank=4 * lora))
    config = replace(config, output=str(folder))
    names = ("best_step", "reference", "store_hash", "labels_hash", "prediction_type")
    said = card.fill(config, MODEL, dict.fromkeys(names, "x") | {"config": asdict(config)}, pairs=1)
    for reader in ("diffusers", "ComfyUI", "A1111, Forge"):
        assert f"\n- {reader}: " in said
    (line,) = re.findall(r"^- diffusers: `(.*?)`", said, re.MULTILINE)
    with contextlib.chdir(folder):
        opened = eval(line, {"diffusers": diffusers, "pipeline": diffusers.DiffusionPipeline.from_pretrained(MODEL)})
    assert lora or isinstance(opened, diffusers.StableDiffusionPipeline)


def finished_run(folder: Path) -> Path:
    """Make a run folder whose result is the embedded world's model, and return its result."""
    made = folder / "result"
    diffusers.DiffusionPipeline.from_pretrained(MODEL).save_pretrained(made)
    (made / "README.md").write_text("# A card\n\n| what | value |\n|---|---|\n")
    named = named_files.describe(str(made), ["unet/diffusion_pytorch_model.safetensors", "README.md"])
    (made / "facts.json").write_text(json.dumps({"config": {}, "files": named}))
    return made


def test_a_finished_run_gets_its_single_file_once(tmp_path: Path) -> None:
    made = finished_run(tmp_path / "run")
    config = TrainConfig(output=str(tmp_path / "run"), export="single-file")
    train_dpo._export_finished(config.output, config)
    assert result_files.read_facts(str(made))["files"].keys() == {
        "unet/diffusion_pytorch_model.safetensors",
        "run.safetensors",
        "README.md",
    }
    assert (
        "# A card\n\n`run.safetensors` holds the same model in one file:\n\n- diffusers: "
        in (made / "README.md").read_text()
    )
    assert not any("run.safetensors" in one or "README" in one for one in result_files.problems(str(made)))
    written = (made / "run.safetensors").stat().st_mtime_ns
    train_dpo._export_finished(config.output, config)
    assert (made / "run.safetensors").stat().st_mtime_ns == written


def test_a_file_that_a_kill_cut_is_not_taken_for_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = finished_run(tmp_path / "run")
    config = TrainConfig(output=str(tmp_path / "run"), export="single-file")

    def cut(_: Path, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(exports, "write_checkpoint", cut)
        with pytest.raises(KeyboardInterrupt):
            train_dpo._export_finished(config.output, config)
    assert not (made / "run.safetensors").exists()
    train_dpo._export_finished(config.output, config)
    assert len(load_file(made / "run.safetensors")) > 100
    assert not list(made.glob("*.partial"))


def test_an_export_that_was_killed_when_the_facts_named_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = finished_run(tmp_path / "run")
    config = TrainConfig(output=str(tmp_path / "run"), export="single-file")
    with monkeypatch.context() as patched:
        patched.setattr(finished_export, "_take_names", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_dpo._export_finished(config.output, config)
    assert (made / "run.partial").is_file()
    assert "run.safetensors" not in (made / "README.md").read_text()
    finished_export.finish(made, "run")
    assert not any("run.safetensors" in one or "README" in one for one in result_files.problems(str(made)))
    assert "- ComfyUI: " in (made / "README.md").read_text()
    assert not list(made.glob("*.partial"))
    (made / "run.safetensors").rename(made / "run.partial")
    (made / "run.partial").write_bytes(b"half")  # of another export, which no facts name so
    finished_export.finish(made, "run")
    assert (made / "run.partial").exists()
