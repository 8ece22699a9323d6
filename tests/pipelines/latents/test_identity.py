"""One identity of a model folder: equal exactly where what decides the outputs is equal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.base import models
from infra.base.errors import UserError
from pipelines.latents import components, identity
from training.backbones.backbone import check_fingerprints

Tensors = dict[str, torch.Tensor]
Pipelines = Callable[[str], Path]


def set_json(path: Path, **values: Any) -> None:
    """Set values in a file of settings; None takes one out."""
    settings = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))


def rewrite(folder: Path, part: str, change: Callable[[Tensors], Tensors]) -> None:
    """Change the tensors of a part's one file."""
    (path,) = (folder / part).glob("*.safetensors")
    save_file(change(load_file(path)), path, metadata={"format": "pt", "saved by": "another"})


@pytest.fixture
def copied(tiny_pipeline: Pipelines, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies a tiny pipeline, to be changed."""
    return lambda kind: Path(shutil.copytree(tiny_pipeline(kind), tmp_path / "model"))


def halved(tensors: Tensors) -> Tensors:
    """Round to float16."""
    return {name: tensor.half() for name, tensor in tensors.items()}


def widened(tensors: Tensors) -> Tensors:
    """Hold the same values in float32."""
    return {name: tensor.float() for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("part", "file", "values"),
    [
        ("vae", "config.json", {"scaling_factor": 0.18, "_name_or_path": "elsewhere", "_diffusers_version": "0.6.0"}),
        ("vae", "config.json", {"force_upcast": None, "use_quant_conv": None, "mid_block_add_attention": None}),
        ("text_encoder", "config.json", {"dtype": None, "torch_dtype": "float16", "transformers_version": "4.20.0"}),
        ("text_encoder", "config.json", {"attention_dropout": None, "initializer_factor": None, "_name_or_path": "x"}),
        ("unet", "config.json", {"time_cond_proj_dim": None, "dropout": None, "resnet_time_scale_shift": None}),
        ("scheduler", "scheduler_config.json", {"trained_betas": None, "thresholding": None}),
    ],
)
def test_what_is_left_to_defaults_or_only_says_who_saved_it_is_no_difference(
    part: str, file: str, values: dict[str, Any], copied: Pipelines
) -> None:
    folder = copied("sd-v")
    before = identity.fingerprint(folder, part)
    old = models.fingerprint(folder, part) if part != "scheduler" else ""
    set_json(folder / part / file, **values)
    assert identity.fingerprint(folder, part) == before
    assert part == "scheduler" or "None" not in values or models.fingerprint(folder, part) != old


def test_names_order_and_precision_that_hold_the_same_values_are_no_difference(copied: Pipelines) -> None:
    folder = copied("sd-v")
    for part in ("vae", "text_encoder", "unet"):
        whole = identity.fingerprint(folder, part)
        rewrite(folder, part, halved)
        rounded = identity.fingerprint(folder, part)
        rewrite(folder, part, widened)
        assert identity.fingerprint(folder, part) == rounded != whole
    before = identity.fingerprint(folder, "text_encoder")
    rewrite(folder, "text_encoder", lambda found: {f"text_model.{name}": value for name, value in found.items()})
    assert identity.fingerprint(folder, "text_encoder") == before


def test_tied_weights_count_once(copied: Pipelines) -> None:
    folder = copied("flux")
    before = identity.fingerprint(folder, "text_encoder_2")
    rewrite(folder, "text_encoder_2", lambda found: found | {"encoder.embed_tokens.weight": found["shared.weight"] + 0})
    assert identity.fingerprint(folder, "text_encoder_2") == before


def pad_with(token: str) -> Callable[[Path], None]:
    """Return what has a tokenizer pad with another token."""
    return lambda folder: set_json(folder / "tokenizer" / "tokenizer_config.json", pad_token=token)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("tokenizer", pad_with("!")),
        ("tokenizer", lambda folder: set_json(folder / "tokenizer" / "tokenizer_config.json", model_max_length=12)),
        ("scheduler", lambda folder: set_json(folder / "scheduler/scheduler_config.json", prediction_type="epsilon")),
        ("scheduler", lambda folder: set_json(folder / "scheduler" / "scheduler_config.json", beta_end=0.02)),
        ("vae", lambda folder: set_json(folder / "vae" / "config.json", scaling_factor=0.2)),
        ("text_encoder", lambda folder: set_json(folder / "text_encoder" / "config.json", hidden_act="gelu")),
        ("pipeline", lambda folder: set_json(folder / "model_index.json", force_zeros_for_empty_prompt=True)),
        ("unet", lambda folder: rewrite(folder, "unet", halved)),
    ],
)
def test_what_decides_an_image_is_a_difference_and_of_that_part_alone(
    part: str, change: Callable[[Path], None], copied: Pipelines
) -> None:
    folder = copied("sd-v")
    before = identity.of_whole_model(folder)
    change(folder)
    after = identity.of_whole_model(folder)
    assert [name for name in before if before[name] != after[name]] == [part]
    assert before.keys() == {"vae", "text_encoder", "unet", "tokenizer", "scheduler", "pipeline"}


@pytest.mark.chaos
def test_a_store_of_another_tokenizer_is_refused(copied: Pipelines) -> None:
    folder = copied("sd-v")
    stored = identity.fingerprints(folder, ("vae", "text_encoder"))
    check_fingerprints(stored, folder, "store")
    pad_with("!")(folder)
    with pytest.raises(UserError, match="store was encoded with another tokenizer than"):
        check_fingerprints(stored, folder, "store")


def test_a_store_of_an_earlier_version_is_compared_by_its_rule_and_that_is_said_once(
    copied: Pipelines, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied("sd-v")
    stored = {part: models.fingerprint(folder, part) for part in ("vae", "text_encoder")}
    for _ in range(2):
        check_fingerprints(stored, folder, f"{folder}/store")
    assert capsys.readouterr().err.count("was made by an earlier version") == 1
    pad_with("!")(folder)
    check_fingerprints(stored, folder, f"{folder}/store")  # nobody noted the tokenizer then
    set_json(folder / "vae" / "config.json", scaling_factor=0.2)
    with pytest.raises(UserError, match="encoded with another vae"):
        check_fingerprints(stored, folder, f"{folder}/store")


def test_the_class_of_a_part_is_part_of_it(copied: Pipelines) -> None:
    folder = copied("sdxl")
    before = identity.fingerprint(folder, "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    assert components.parts_of(folder)["scheduler"] == ("diffusers", "EulerDiscreteScheduler")
    set_json(folder / "model_index.json", scheduler=["diffusers", "EulerAncestralDiscreteScheduler"])
    assert identity.fingerprint(folder, "scheduler") != before
    assert index["scheduler"][1] == "EulerDiscreteScheduler"
