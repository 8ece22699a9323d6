"""The embedded world's text encoder and UNet, trained together on the VAE's latents."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch.nn import functional as F

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.world.fitting import Average, schedule
from infra.world.shapes import RESOLUTION, Scene, all_scenes, corrupt, render
from infra.world.vocabulary import MAX_TOKENS
from infra.world.world_config import WorldConfig
from infra.world.world_vae import to_tensor

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel  # isort: skip
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # isort: skip


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Make a two-layer CLIP text encoder for the tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet() -> UNet2DConditionModel:
    """Make a UNet in SD1.5's manner, small enough to take a training step of 64 images in a tenth of a second."""
    return UNet2DConditionModel(
        sample_size=RESOLUTION // 8,
        block_out_channels=(48, 56),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=8,
    )


@torch.no_grad()
def encoded_scenes(
    config: WorldConfig, vae: AutoencoderKL, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, list[Scene]]:
    """Render and encode the training scenes.

    Returns:
        Mean and standard deviation of each image's scaled latent, [N, 4, 8, 8] float32, and the true scenes.
    """
    every = all_scenes()
    scenes = [every[index] for index in rng.integers(len(every), size=config.images)]
    means = []
    stds = []
    for start in range(0, len(scenes), 128):
        images = to_tensor(np.stack([render(scene, rng) for scene in scenes[start : start + 128]]))
        posterior = vae.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist
        means.append(posterior.mean * vae.config["scaling_factor"])
        stds.append(posterior.std * vae.config["scaling_factor"])
    return torch.cat(means).contiguous(), torch.cat(stds).contiguous(), scenes


def training_caption(config: WorldConfig, scene: Scene, rng: np.random.Generator) -> str:
    """Caption a scene for training: sometimes empty, sometimes with one attribute replaced."""
    if rng.random() < config.caption_dropout:
        return ""
    shown = corrupt(scene, rng) if rng.random() < config.wrong_captions else scene
    return shown.caption


def train_denoiser(
    config: WorldConfig, vae: AutoencoderKL, tokenizer: CLIPTokenizer
) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """Train text encoder and UNet together on the plain noise-prediction loss; keep the averaged weights."""
    torch.manual_seed(config.seed + 1)
    rng = np.random.default_rng(config.seed + 1)
    means, stds, scenes = encoded_scenes(config, vae, rng)
    text_encoder = build_text_encoder(tokenizer)
    unet = build_unet()
    trained = torch.nn.ModuleList([text_encoder, unet])
    print(f"unet {sum(p.numel() for p in unet.parameters()):,} parameters", flush=True)
    noising = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    optimizer = torch.optim.AdamW(trained.parameters(), lr=config.unet_learning_rate, weight_decay=1e-2)
    average = Average(trained)
    started = time.perf_counter()
    for step in range(config.unet_steps):
        optimizer.param_groups[0]["lr"] = config.unet_learning_rate * schedule(step, config.unet_steps)
        rows = rng.integers(len(scenes), size=config.unet_batch)
        captions = [training_caption(config, scenes[row], rng) for row in rows]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        latents = means[rows] + stds[rows] * torch.randn(len(rows), 4, 8, 8)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (len(rows),))
        noisy = noising.add_noise(latents, noise, timesteps)  # type: ignore[arg-type]
        prediction = unet(noisy, timesteps, text_encoder(tokens).last_hidden_state).sample
        loss = F.mse_loss(prediction, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(trained)
        if step % 200 == 0:
            print(f"unet {step:5d}  loss {loss.item():.4f}  {time.perf_counter() - started:.0f} s", flush=True)
    average.copy_to(trained)
    return text_encoder.eval(), unet.eval()
