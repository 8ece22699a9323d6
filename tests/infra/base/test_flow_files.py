"""SD3 and FLUX in one file, in the names of their authors' code: diffusers' loaders give the folder's own model."""

from __future__ import annotations

import shutil
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import flow_files
from support.single_files import write_single

from infra.base import (
    models,
    single_files,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from pipelines.latents import identity, weight_files

from diffusers.loaders import single_file_model, single_file_utils  # isort: skip

SD3_TEXT = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}
FLUX_TEXT = {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"}
WIDTH = 3072  # of FLUX.1, the only one that diffusers' converter knows


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))


@pytest.fixture
def narrow_flux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let diffusers' converter cut the rows of a tiny FLUX, 16 wide: its own width is a constant in its code."""
    entry = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    original = entry["checkpoint_mapping_fn"]
    assert WIDTH in original.__code__.co_consts
    narrow = original.__code__.replace(co_consts=tuple(16 if c == WIDTH else c for c in original.__code__.co_consts))
    monkeypatch.setitem(entry, "checkpoint_mapping_fn", types.FunctionType(narrow, original.__globals__))


def settings_of(folder: Path, tmp_path: Path) -> Path:
    """Copy a folder without its weights: what a base gives a file that holds all parts."""
    copied = tmp_path / "settings"
    shutil.copytree(folder, copied, ignore=shutil.ignore_patterns("*.safetensors"))
    return copied


def write_network(folder: Path, rules: flow_files.Rules, prefix: str = flow_files.NETWORK) -> flow_files.Tensors:
    named = flow_files.original_network(flow_files.part(folder, "transformer"), rules)
    return {f"{prefix}{name}": tensor for name, tensor in named.items()}


def test_sd3_in_one_file_is_its_folder(tiny_pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    """CLIP-L's projection is the identity in SD3, whatever its file holds: diffusers puts that there."""
    folder = tmp_path / "sd3"
    shutil.copytree(tiny_pipeline("sd3"), folder)
    clip = folder / "text_encoder" / "model.safetensors"
    save_file(load_file(clip) | {"text_projection.weight": torch.eye(8)}, clip, metadata={"format": "pt"})
    tensors = write_network(folder, flow_files.SD3) | flow_files.original_vae(folder, "first_stage_model.")
    tensors |= flow_files.text_parts(folder, SD3_TEXT)
    tensors["text_encoders.clip_l.transformer.text_projection.weight"] = torch.randn(8, 8)
    tensors["text_encoders.clip_l.logit_scale"] = torch.ones(())
    file = write_single(tmp_path / "sd3.safetensors", tensors)
    opened = models.local_folder(f"{settings_of(folder, tmp_path)}+{file}")
    assert identity.of_whole_model(opened) == identity.of_whole_model(folder)
    weight_files.check_folder(opened, weight_files.opened_parts(opened))


def test_sd3_without_text_takes_its_base_s(tiny_pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    """As Stability published SD3.5: network and VAE; one tensor too few or too many is refused."""
    folder = tiny_pipeline("sd3-without-t5")
    tensors = write_network(folder, flow_files.SD3) | flow_files.original_vae(folder, "first_stage_model.")
    file = write_single(tmp_path / "sd35.safetensors", tensors)
    opened = models.local_folder(f"{folder}+{file}")
    assert identity.of_whole_model(opened) == identity.of_whole_model(folder)
    name = f"{flow_files.NETWORK}joint_blocks.0.x_block.mlp.fc1.weight"
    torn = write_single(tmp_path / "torn.safetensors", {key: one for key, one in tensors.items() if key != name})
    with pytest.raises(UserError, match=rf"^--model {torn}: its transformer is not one of .*fc1\.weight"):
        models.local_folder(f"{folder}+{torn}")
    wider = write_single(tmp_path / "wider.safetensors", tensors | {f"{name}.lora": torch.ones(2)})
    with pytest.raises(UserError, match=r"its transformer has [\d,]+ values, and a SD3Transformer2DModel"):
        models.local_folder(f"{folder}+{wider}")


@pytest.mark.usefixtures("narrow_flux")
def test_flux_in_one_file_is_its_folder(tiny_pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    """The network alone, as its authors published it, and all parts in ComfyUI's names."""
    folder = tiny_pipeline("flux")
    bare = write_single(tmp_path / "flux1-dev.safetensors", write_network(folder, flow_files.FLUX, prefix=""))
    opened = models.local_folder(f"{folder}+{bare}")
    assert identity.of_whole_model(opened) == identity.of_whole_model(folder)
    tensors = write_network(folder, flow_files.FLUX) | flow_files.original_vae(folder, "vae.")
    file = write_single(tmp_path / "whole.safetensors", tensors | flow_files.text_parts(folder, FLUX_TEXT))
    opened = models.local_folder(f"{settings_of(folder, tmp_path)}+{file}")
    assert identity.of_whole_model(opened) == identity.of_whole_model(folder)


def test_a_flux_of_another_width_is_refused(tiny_pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    file = write_single(tmp_path / "x.safetensors", write_network(tiny_pipeline("flux"), flow_files.FLUX))
    with pytest.raises(UserError, match=r"its transformer is not one of .* \(RuntimeError: split_with_sizes expects"):
        models.local_folder(f"{tiny_pipeline('flux')}+{file}")


@pytest.mark.parametrize(
    ("shapes", "base"),
    [
        ({"sd3": (9216,), "pos_embed": (1, 36864, 1536)}, "stabilityai/stable-diffusion-3-medium-diffusers"),
        ({"sd3": (9216,), "pos_embed": (1, 147456, 1536)}, "stabilityai/stable-diffusion-3.5-medium"),
        ({"sd35_large": (9728, 2432)}, "stabilityai/stable-diffusion-3.5-large"),
        ({"flux": (128,)}, "black-forest-labs/FLUX.1-schnell"),
        (
            {"flux": (128,), "guidance_in.in_layer.bias": (3072,), "img_in.weight": (3072, 64)},
            "black-forest-labs/FLUX.1-dev",
        ),
        ({"flux": (128,), "guidance_in.in_layer.bias": (3072,), "img_in.weight": (3072, 384)}, None),  # Fill
        ({"flux": (128,), "guidance_in.in_layer.bias": (3072,), "img_in.weight": (3072, 128)}, None),  # Depth, Canny
    ],
)
@pytest.mark.parametrize("prefix", ["", flow_files.NETWORK])
def test_the_base_of_a_file_is_that_of_its_kind(
    shapes: dict[str, tuple[int, ...]], base: str | None, prefix: str
) -> None:
    known = single_file_utils.CHECKPOINT_KEY_NAMES
    names = {key: known[key][bool(prefix)] if key in known else f"{prefix}{key}" for key in shapes}
    headers = {names[key]: single_files.Tensor(shape, "BF16") for key, shape in shapes.items()}
    assert single_files.base_of(headers) == base
