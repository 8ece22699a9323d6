"""Train the embedded world's diffusion model from nothing: `python infra/world/train_world.py`.

The VAE is trained first, on rendered scenes. A text encoder and a UNet follow, together, on that VAE's latents. Some of
their captions are wrong on purpose, so that the base model errs as models trained on web captions do. It takes about
40 minutes on two cores. The result is a Stable Diffusion folder, and it is committed.
"""

from __future__ import annotations

from infra.base import (
    cli,
    files,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.world.vocabulary import build_tokenizer
from infra.world.world_config import WorldConfig
from infra.world.world_denoiser import train_denoiser
from infra.world.world_vae import train_vae

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline  # isort: skip


def main(config: WorldConfig) -> None:
    """Train all parts and write the pipeline and the settings that made it."""
    if config.reuse_vae:
        vae = AutoencoderKL.from_pretrained(config.folder / "vae")
    else:
        vae = train_vae(config)
        vae.save_pretrained(config.folder / "vae")
    tokenizer = build_tokenizer()
    text_encoder, unet = train_denoiser(config, vae, tokenizer)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    StableDiffusionPipeline(
        vae,
        text_encoder,
        tokenizer,
        unet,
        scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,  # type: ignore[arg-type]
    ).save_pretrained(config.folder)
    settings = {name: value for name, value in vars(config).items() if name not in ("output", "reuse_vae")}
    files.write_json(str(config.folder / "trained_with.json"), settings)


if __name__ == "__main__":
    cli.run(main, WorldConfig)
