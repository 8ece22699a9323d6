"""Hand vectors: a step of each pipeline's own sampler, which its backbone's prediction must reproduce.

The pipeline draws from noise that the test gives it, and every step's latents are caught. The judge is the pipeline:
its encode_prompt, its time, its packing, its scheduler's step and its decoding. A wrong sign, scale or time differs by
more than a hundred times the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny_pipelines import NEW, RESOLUTIONS

from infra.base.models import Model
from pipelines.drawing import sampling
from pipelines.latents import autoencoders, encoders, text_columns, text_templates
from training.backbones.backbone import Backbone, open_backbone
from training.backbones.flow import RectifiedFlow
from training.backbones.schedule_config import EVERY

Pipelines = Callable[[str], Path]
STEPS = 3
CAPTIONS = ["a big red star", "", "a white circle on a teal background"]
KINDS = ("sd3", "flux", *NEW)
OFF: dict[str, dict[str, Any]] = {
    "qwen-image": {"true_cfg_scale": 1.0},
    "z-image": {"guidance_scale": 0.0},
    "sana": {"guidance_scale": 1.0, "use_resolution_binning": False},
    "flux": {"guidance_scale": 3.5},  # which networks are told
    "flux2-dev": {"guidance_scale": 4.0},
}
FLUX_2 = ("flux2-klein", "flux2-dev")
SIDES = {"sana": (8, 16)}  # of latents that are not square; its images have sides of 32 pixels at least


def as_packed(kind: str, latents: torch.Tensor) -> torch.Tensor:
    """Lay latents [B, C, H, W] out as the pipeline's argument of that name, by the pipeline's own code."""
    from diffusers import FluxPipeline, QwenImagePipeline

    batch, channels, height, width = latents.shape
    if kind == "flux":
        return FluxPipeline._pack_latents(latents, batch, channels, height, width)
    if kind == "qwen-image":
        return QwenImagePipeline._pack_latents(latents, batch, channels, height, width)
    return latents


def as_kept(kind: str, latents: torch.Tensor) -> torch.Tensor:
    """Lay latents [B, C, H, W] out as the pipeline keeps them between its steps."""
    if kind in FLUX_2:
        from diffusers import Flux2KleinPipeline

        return Flux2KleinPipeline._pack_latents(latents)
    return as_packed(kind, latents)


def draw(kind: str, pipeline: Any, noise: torch.Tensor, caption: str, **more: Any) -> list[torch.Tensor]:
    """Let the pipeline draw a non-square image, and return its latents after each step, as it keeps them."""
    caught: list[torch.Tensor] = []

    def catch(_: Any, __: int, ___: Any, given: dict[str, Any]) -> dict[str, Any]:
        caught.append(given["latents"].clone())
        return given

    factor = pipeline.vae_scale_factor * (2 if kind in FLUX_2 else 1)
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        prompt=[caption],
        height=noise.shape[2] * factor,
        width=noise.shape[3] * factor,
        num_inference_steps=STEPS,
        latents=as_packed(kind, noise),
        callback_on_step_end=catch,
        max_sequence_length=77,
        **({"output_type": "latent"} | OFF.get(kind, {"guidance_scale": 1.0}) | more),
    )
    return caught


def conditioning(folder: Path, pipeline: Any, captions: list[str]) -> dict[str, torch.Tensor]:
    """Encode captions into the store's columns, not yet rounded to float16."""
    return text_columns.encode(pipeline, captions, text_columns.embedding_shapes(folder, 77), "cpu")


def opened(kind: str, tiny_pipeline: Pipelines) -> tuple[Path, Any, Backbone, Any]:
    folder = tiny_pipeline(kind)
    pipeline: Any = sampling.load_pipeline(folder, torch.float32, "cpu")
    backbone = open_backbone(folder, EVERY)
    return folder, pipeline, backbone, backbone.load_network()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_step_is_the_pipelines(kind: str, tiny_pipeline: Pipelines) -> None:
    folder, pipeline, backbone, network = opened(kind, tiny_pipeline)
    assert isinstance(backbone, RectifiedFlow)
    noise = torch.randn(1, 16, *SIDES.get(kind, (4, 6)), generator=torch.Generator().manual_seed(3))
    steps = draw(kind, pipeline, noise, CAPTIONS[2])
    levels = pipeline.scheduler.sigmas  # [STEPS + 1], the last 0
    backbone.sigmas = levels[:-1]
    solver = None
    if kind == "sana":  # whose solver tells the network whole timesteps, and looks back a step
        solver = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
        solver.set_timesteps(STEPS)
        backbone.sigmas = solver.timesteps / 1000
    text = conditioning(folder, pipeline, CAPTIONS[2:])
    latents = noise
    for index in range(STEPS):
        velocity = backbone.predict(network, latents, torch.tensor([index]), text)
        if solver is None:
            latents = latents + (levels[index + 1] - levels[index]) * velocity
        else:
            latents = solver.step(velocity, solver.timesteps[index], latents).prev_sample
        assert torch.allclose(as_kept(kind, latents), steps[index], atol=5e-6)
        moved = (levels[index + 1] - levels[index]).abs() * velocity.abs().mean()
        assert moved > 100 * 5e-6  # a wrong sign could not pass


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_leads_back_to_the_image(kind: str, tiny_pipeline: Pipelines) -> None:
    backbone = open_backbone(tiny_pipeline(kind), EVERY)
    assert isinstance(backbone, RectifiedFlow)
    image, noise = torch.randn(2, 3, 16, 4, 4)
    t = torch.tensor([1, 500, 999])
    noisy = backbone.add_noise(image, noise, t)
    # The sampler's last step goes from s to 0: x_s + (0 - s) (noise - x_0) is x_0.
    s = backbone.sigmas[t].view(-1, 1, 1, 1)
    assert torch.allclose(noisy - s * backbone.target(image, noise, t), image, atol=1e-5)


@pytest.mark.parametrize("kind", NEW)
@torch.no_grad()
def test_stored_latents_are_what_the_pipeline_decodes(kind: str, tiny_pipeline: Pipelines) -> None:
    folder, pipeline, _, _ = opened(kind, tiny_pipeline)
    side = RESOLUTIONS.get(kind, 16)
    encoder = encoders.LatentEncoder(Model(str(folder)), side, "mean", False, 0, 1, "float32")
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    stored = torch.from_numpy(encoder.encode(pixels, np.zeros(1, np.int64), 0).astype(np.float32))

    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    mean, _ = autoencoders.posterior(encoder.vae, images)
    expected = autoencoders.decode(encoder.vae, mean)
    latents = (mean - encoder.shift) * encoder.scale
    assert torch.allclose(stored.view_as(latents), latents, rtol=1e-3, atol=1e-4)  # float16 keeps 11 bits

    def stand_still(*given: Any, **named: Any) -> tuple[Any]:
        """Predict no motion, so that the pipeline decodes the latents that it was given."""
        noisy = given[0] if given else named["hidden_states"]
        return (torch.zeros_like(noisy) if torch.is_tensor(noisy) else [torch.zeros_like(one) for one in noisy],)

    decoded: list[torch.Tensor] = []
    pipeline.transformer.forward = stand_still
    pipeline.image_processor.postprocess = lambda image, **_: decoded.append(image)
    draw(kind, pipeline, latents, "a star", output_type="pt")
    assert torch.allclose(decoded[0], expected, atol=1e-5)
    assert expected.std() > 0.01


@pytest.mark.parametrize("kind", NEW)
@torch.no_grad()
def test_captions_of_unequal_length_in_a_batch_are_what_they_are_alone(kind: str, tiny_pipeline: Pipelines) -> None:
    folder, pipeline, backbone, network = opened(kind, tiny_pipeline)
    text = conditioning(folder, pipeline, CAPTIONS)
    noisy = torch.randn(3, 16, 4, 6, generator=torch.Generator().manual_seed(5))
    t = torch.tensor([100, 500, 900])
    together = backbone.predict(network, noisy, t, text)
    for row in range(3):
        one = slice(row, row + 1)
        alone = backbone.predict(network, noisy[one], t[one], {name: value[one] for name, value in text.items()})
        assert torch.allclose(together[one], alone, atol=3e-6)  # other shapes, other order of sums
    if kind not in FLUX_2:  # whose rows are all read
        assert len({int(length) for length in text[text_columns.LENGTH]}) == 3
        padded = text["text_encoder"].clone()
        for row, length in enumerate(text[text_columns.LENGTH].flatten().long().tolist()):
            padded[row, length:] = 7.0
        filled = backbone.predict(network, noisy, t, text | {"text_encoder": padded})
        assert torch.allclose(filled, together, atol=3e-6)  # what the store is padded with is not looked at


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_noise_is_added_at_the_level_that_the_network_is_told(kind: str, tiny_pipeline: Pipelines) -> None:
    folder, pipeline, backbone, network = opened(kind, tiny_pipeline)
    text = conditioning(folder, pipeline, CAPTIONS[2:])
    seen: list[torch.Tensor] = []
    # What turns the time into an embedding, and by how much the network has multiplied the noise level before it.
    embed = {"z-image": "t_embedder", **dict.fromkeys(FLUX_2, "time_guidance_embed"), "sana": "time_embed"}.get(
        kind, "time_text_embed"
    )
    factor = 1 if kind == "qwen-image" else 1000
    network.get_submodule(embed).register_forward_pre_hook(lambda _, given: seen.append(given[0].float() / factor))
    noise = torch.ones(1, 16, 4, 4)
    for t in (300, 700, 701, 998):
        seen.clear()
        with torch.autocast("cpu", torch.bfloat16):
            noisy = backbone.add_noise(torch.zeros_like(noise), noise, torch.tensor([t]))  # s everywhere
            backbone.predict(network, noisy, torch.tensor([t]), text)
        told = 1 - seen[0] if kind == "z-image" else seen[0]
        assert told.item() == pytest.approx(noisy[0, 0, 0, 0].item(), abs=1e-6)
    levels = torch.linspace(0.7, 0.711, 12)
    with torch.autocast("cpu", torch.bfloat16):
        distinct = len(set(backbone.told(levels).tolist()))  # type: ignore[attr-defined]
    assert distinct == (4 if backbone.rounds_time else 12)
    assert torch.equal(backbone.told(levels), levels)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", NEW)
@torch.no_grad()
def test_a_list_of_captions_is_encoded_twice_alike(kind: str, tiny_pipeline: Pipelines) -> None:
    folder = tiny_pipeline(kind)
    pipeline: Any = sampling.load_pipeline(folder, torch.float32, "cpu")
    captions = ["a star", "a red boat"]
    first, second = (conditioning(folder, pipeline, captions) for _ in range(2))
    assert captions == ["a star", "a red boat"]  # Z-Image's encode_prompt writes its templates into the list it gets
    assert all(torch.equal(first[name], second[name]) for name in first)


@torch.no_grad()
def test_sana_s_empty_caption_is_the_one_that_it_guides_against(tiny_pipeline: Pipelines) -> None:
    folder, pipeline, _, _ = opened("sana", tiny_pipeline)
    _, _, against, mask = pipeline.encode_prompt(["a star"], True, max_sequence_length=77)
    text = conditioning(folder, pipeline, ["a star", " "])
    assert text[text_columns.LENGTH].tolist() == [[4], [1]]  # <bos>, the instruction's last token, a, star; <bos>
    assert torch.equal(text["text_encoder"][1, :1], against[0][mask[0] == 1])
    instruction = text_templates.instruction(pipeline)
    _, mask, _, _ = pipeline.encode_prompt([""], False, max_sequence_length=77, complex_human_instruction=instruction)
    assert int(mask.sum()) == 2  # what a prompt of nothing becomes in the pipeline
