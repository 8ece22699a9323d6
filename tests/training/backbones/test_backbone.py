"""Which class opens a folder, and what is refused before any weights are read."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.material import MODEL

from infra.base import models
from infra.base.errors import UserError
from pipelines.latents import components, identity, planned, text_columns, weight_files
from pipelines.latents.kinds import kind_of
from training.backbones.backbone import check_fingerprints, open_backbone
from training.backbones.diffusion import StableDiffusion, StableDiffusionXL
from training.backbones.flow import Flux, StableDiffusion3
from training.backbones.flux2 import Flux2Dev, Flux2Klein
from training.backbones.qwen_image import QwenImage
from training.backbones.sana import Sana
from training.backbones.schedule_config import ScheduleConfig
from training.backbones.z_image import ZImage

Pipelines = Callable[[str], Path]


@pytest.mark.parametrize(
    ("kind", "expected", "prediction"),
    [
        ("sd-v", StableDiffusion, "v_prediction"),
        ("sdxl", StableDiffusionXL, "epsilon"),
        ("sd3", StableDiffusion3, "flow"),
        ("flux", Flux, "flow"),
        ("qwen-image", QwenImage, "flow"),
        ("z-image", ZImage, "flow"),
        ("flux2-klein", Flux2Klein, "flow"),
        ("flux2-dev", Flux2Dev, "flow"),
        ("sana", Sana, "flow"),
    ],
)
def test_the_pipelines_class_decides(kind: str, expected: type, prediction: str, tiny_pipeline: Pipelines) -> None:
    backbone = open_backbone(tiny_pipeline(kind), ScheduleConfig())
    assert type(backbone) is expected
    assert backbone.prediction_type == prediction
    assert backbone.timesteps == 1000
    assert backbone.network_folder == kind_of(backbone.folder).network


def test_a_pipeline_that_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    with pytest.raises(UserError, match="a PixArtAlphaPipeline; this trainer knows StableDiffusionPipeline"):
        open_backbone(tmp_path, ScheduleConfig())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("QwenImageEditPipeline", "a QwenImageEditPipeline, which is given an image to edit beside a caption;"),
        ("ZImageOmniPipeline", "a ZImageOmniPipeline, which is given images among the words beside a caption;"),
        ("Flux2KleinKVPipeline", "a Flux2KleinKVPipeline, which is given images to refer to beside a caption;"),
        ("FluxKontextPipeline", "a FluxKontextPipeline, which is given an image to edit beside a caption;"),
        ("FluxFillPipeline", "a FluxFillPipeline, which is given an image and a mask beside a caption;"),
        ("FluxPriorReduxPipeline", "a FluxPriorReduxPipeline, which is given an image to vary beside a caption;"),
        ("SanaSprintPipeline", "a SanaSprintPipeline, which is given its guidance beside a caption;"),
        ("WanPipeline", "a WanPipeline; this trainer knows"),
    ],
)
def test_variants_of_known_families_are_refused_by_name(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(UserError, match=told):
        open_backbone(tmp_path, ScheduleConfig())


@pytest.mark.parametrize(
    ("kind", "setting", "value", "told"),
    [
        ("qwen-image", "zero_cond_t", True, "as in an edit model; this trainer takes a QwenImagePipeline"),
        ("qwen-image", "guidance_embeds", True, "as in a model that is told its guidance;"),
        ("z-image", "siglip_feat_dim", 8, "as in the Omni model, which sees images beside the words;"),
        ("sana", "guidance_embeds", True, "as in Sana-Sprint, which is told its guidance;"),
        ("flux2-klein", "guidance_embeds", True, r"as in FLUX\.2 \[dev\], which is told its guidance and is a"),
        ("flux2-dev", "guidance_embeds", False, r"as in FLUX\.2 \[klein\], whose class is Flux2KleinPipeline;"),
    ],
)
def test_networks_of_variants_are_refused_by_their_settings(
    kind: str, setting: str, value: object, told: str, tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_pipeline(kind), folder)
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
    with pytest.raises(UserError, match=f"{setting} is {value}, {told}"):
        components.check_settings(folder)


KLEIN_9B = {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288}
QWEN3_8B = {"hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "num_hidden_layers": 36}
SD35_LARGE = {
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "pos_embed_max_size": 192,
    "dual_attention_layers": [],
}


@pytest.mark.parametrize(
    ("preset", "changes", "middle"),
    [
        # The level in the middle of the schedule: shift / (shift + 1), and e^mu / (e^mu + 1) of a shift by tokens.
        ("z-image", {"scheduler": {"shift": 3.0}}, 3 / 4),  # Z-Image-Turbo
        ("z-image", {}, 6 / 7),
        ("flux", {"scheduler": {"shift": 1.0, "use_dynamic_shifting": False}}, 1 / 2),  # FLUX.1 [schnell]
        ("flux", {}, math.e**1.15 / (math.e**1.15 + 1)),  # FLUX.1 [dev] and Krea [dev]
        ("flux2-klein", {"transformer": KLEIN_9B, "text_encoder": QWEN3_8B}, math.e**2.023 / (math.e**2.023 + 1)),
        ("sd35", {"transformer": SD35_LARGE}, 3 / 4),  # SD3.5 large and large turbo
    ],
)
def test_other_versions_are_taken_by_their_settings(
    preset: str, changes: dict[str, dict[str, object]], middle: float, tmp_path: Path
) -> None:
    folder = tmp_path / "version"
    shutil.copytree(planned.SHAPES / preset, folder)
    for part, settings in changes.items():
        (path,) = (folder / part).glob("*config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    weight_files.check_folder(folder, ())
    backbone: Any = open_backbone(folder, ScheduleConfig())
    assert float(backbone.sigmas[499]) == pytest.approx(middle, abs=1e-3)
    kind = kind_of(folder)
    if kind.sized:
        width = text_columns.embedding_shapes(folder, kind.tokens)[kind.sized][1]
        asked = backbone.network_settings()
        assert width == asked.get("joint_attention_dim", asked.get("cap_feat_dim"))


@pytest.mark.parametrize(("embeds", "told"), [(True, 3.5), (False, None)])
def test_flux_is_told_its_guidance_where_its_settings_say_so(embeds: bool, told: float | None, tmp_path: Path) -> None:
    folder = tmp_path / "version"
    shutil.copytree(planned.SHAPES / "flux", folder)
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"guidance_embeds": embeds}))  # False: FLUX.1 [schnell]
    backbone: Any = open_backbone(folder, ScheduleConfig())
    assert backbone.guidance == told


def test_a_tokenizer_without_its_chat_template_is_refused(tiny_pipeline: Pipelines, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_pipeline("z-image"), folder)
    before = identity.fingerprint(folder, "tokenizer")
    template = folder / "tokenizer" / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert identity.fingerprint(folder, "tokenizer") != before
    template.unlink()
    with pytest.raises(UserError, match=r"tokenizer: has no chat template, which a ZImagePipeline puts captions into"):
        components.check_settings(folder)


def test_a_store_of_another_vae_is_refused_with_both_fingerprints() -> None:
    with pytest.raises(UserError, match=r"store 0000000000000000, model [0-9a-f]{16}"):
        check_fingerprints({"vae": "0" * 64, "text_encoder": "0" * 64}, MODEL, "store")


def test_each_text_encoder_is_compared(tiny_pipeline: Pipelines) -> None:
    folder = tiny_pipeline("sd3")
    stored = {part: models.fingerprint(folder, part) for part in kind_of(folder).frozen()}
    check_fingerprints(stored, folder, "store")
    with pytest.raises(UserError, match="another text_encoder_3 than"):
        check_fingerprints(stored | {"text_encoder_3": "0" * 64}, folder, "store")
    del stored["text_encoder_3"]  # a store encoded without T5
    check_fingerprints(stored, folder, "store")
    del stored["text_encoder_2"]
    with pytest.raises(UserError, match=r"another text_encoder_2 than .* store None"):
        check_fingerprints(stored, folder, "store")


def lengthen_header(weights: Path) -> None:
    """Write the same tensors into a file whose header is longer, so that each lies elsewhere in the file."""
    tensors = load_file(weights)
    before = weights.read_bytes()
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, weights, {"format": "pt", "why": "x" * 13})
    assert int.from_bytes(weights.read_bytes()[:8], "little") != int.from_bytes(before[:8], "little")


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux", "qwen-image", "z-image", "flux2-klein"])
def test_weights_lie_at_aligned_places_whatever_their_files_header(
    kind: str, tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_pipeline(kind), folder)
    backbone = open_backbone(folder, ScheduleConfig())
    before = backbone.load_network()
    lengthen_header(folder / backbone.network_folder / "diffusion_pytorch_model.safetensors")
    after = backbone.load_network()
    for network in (before, after):
        assert {tensor.data_ptr() % 64 for tensor in network.parameters()} == {0}
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name])
