"""The embedded world's VAE, trained on rendered scenes."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.world.fitting import Average, schedule
from infra.world.shapes import COLOURS, RESOLUTION, SHAPES, compose, shape_mask
from infra.world.world_config import WorldConfig

from diffusers import AutoencoderKL  # isort: skip
from diffusers.models.resnet import ResnetBlock2D  # isort: skip

VAE_RADII = {"small": (10, 13), "big": (19, 23)}  # pixels; the small ones are smaller than the world's


def to_tensor(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Convert [B, 64, 64, 3] uint8 into [B, 3, 64, 64] float32 in -1..1, channels last."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def random_scene_image(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw any shape in colours near the palette's, or one time in eight in any, so that the VAE learns more."""
    low, high = VAE_RADII[str(rng.choice(list(VAE_RADII)))]
    radius = int(rng.integers(low, high + 1))
    x, y = rng.integers(radius + 2, RESOLUTION - radius - 2, size=2).tolist()
    palette = np.array(list(COLOURS.values()))
    colours = palette[rng.integers(len(palette), size=2)] + rng.integers(-12, 13, size=(2, 3))
    if rng.random() < 1 / 8:
        colours = rng.integers(0, 256, size=(2, 3))
    colours = np.clip(colours, 0, 255)
    return compose(shape_mask(str(rng.choice(SHAPES)), radius, x, y), colours[0], colours[1])


@torch.no_grad()
def initialise_vae(vae: AutoencoderKL) -> None:
    """Start the VAE as a plain chain of convolutions that keeps a signal's size, almost without posterior noise.

    Residual branches begin at zero and the other convolutions twice as large as torch makes them; from torch's own
    start the colours took ten times as many steps. Posterior noise begins at a standard deviation of e^-3, not 1.
    """
    branches = [block for block in vae.modules() if isinstance(block, ResnetBlock2D)]
    inner = {id(conv) for block in branches for conv in (block.conv1, block.conv2)}
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv2d) and id(module) not in inner:
            module.weight.mul_(2.0)
    for block in branches:
        torch.nn.init.zeros_(block.conv2.weight)
        torch.nn.init.zeros_(block.conv2.bias)
    torch.nn.init.constant_(vae.quant_conv.bias[4:], -6.0)


def fit_vae(
    config: WorldConfig, vae: AutoencoderKL, rng: np.random.Generator, steps: int, batch: int, edge_weight: float
) -> None:
    """Minimise mean absolute error, more where the image changes, plus a light KL; leave the averaged weights."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=config.vae_learning_rate, betas=(0.9, 0.99))
    average = Average(vae, 0.998)
    started = time.perf_counter()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = config.vae_learning_rate * schedule(step, steps)
        images = to_tensor(np.stack([random_scene_image(rng) for _ in range(batch)]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        error = (decoded.float() - images).abs()
        change = (images - F.avg_pool2d(images, 5, 1, 2, count_include_pad=False)).abs().mean(1, keepdim=True)
        loss = (error * (1 + edge_weight * change)).mean() + config.kl_weight * posterior.kl().mean() / (4 * 8 * 8)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(vae)
        if step % 200 == 0:
            print(f"vae {step:5d}  L1 {error.mean().item():.4f}  {time.perf_counter() - started:.0f} s", flush=True)
    average.copy_to(vae)


def train_vae(config: WorldConfig) -> AutoencoderKL:
    """Train the autoencoder from nothing, in two stages."""
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 48, 48),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,  # small groups would normalise a flat image's colour away
        mid_block_add_attention=False,
        sample_size=RESOLUTION,
    ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    initialise_vae(vae)
    fit_vae(config, vae, rng, config.vae_steps, config.vae_batch, edge_weight=0.0)
    vae.save_pretrained(config.folder / "vae")
    return refine_vae(config, vae)


def refine_vae(config: WorldConfig, vae: AutoencoderKL) -> AutoencoderKL:
    """Sharpen a trained VAE's edges and set its scaling factor, so that latents have unit variance."""
    torch.manual_seed(config.seed + 2)
    rng = np.random.default_rng(config.seed + 2)
    fit_vae(config, vae, rng, config.vae_refine_steps, config.vae_refine_batch, edge_weight=8.0)
    with torch.no_grad():
        images = to_tensor(np.stack([random_scene_image(rng) for _ in range(512)]))
        spread = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(64)]).std().item()
    vae.register_to_config(scaling_factor=round(1 / spread, 5))
    return vae.eval().requires_grad_(False)
