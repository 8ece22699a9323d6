"""Train the embedded world's diffusion model from nothing: `python infra/world/train_world.py`.

Three parts, in order: a VAE on rendered scenes; a text encoder and a UNet together on that VAE's latents, with some
captions wrong on purpose, so that the base model errs as models trained on web captions do. About 40 minutes on two
cores. The result is a Stable Diffusion folder; it is committed, so nobody needs to run this to use the project.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import pre_tokenizers
from torch.nn import functional as F

from infra.base import (
    cli,
    files,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.world.shapes import COLOURS, RADII, RESOLUTION, SHAPES, Scene, all_scenes, compose, render, shape_mask

from diffusers import (  # isort: skip
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.resnet import ResnetBlock2D  # isort: skip
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # isort: skip

VAE_RADII = {"small": (10, 13), "big": (19, 23)}  # pixels; the small ones smaller than the world's, for good measure


@dataclass(frozen=True)
class Config:
    """How the world's model is trained."""

    output: str = "infra/world/model"
    """Folder to write the pipeline into."""
    seed: int = 0
    vae_steps: int = 7000
    vae_batch: int = 8
    vae_learning_rate: float = 5e-4
    vae_refine_steps: int = 5500
    """Further steps that weigh edges, without which small shapes stay blurred."""
    vae_refine_batch: int = 12
    kl_weight: float = 1e-4
    unet_steps: int = 3600
    unet_batch: int = 64
    unet_learning_rate: float = 1.2e-3
    wrong_captions: float = 0.35
    """Share of training captions with one attribute replaced by a random one."""
    caption_dropout: float = 0.1
    """Share of training captions replaced by the empty one, for classifier-free guidance."""
    images: int = 12_288
    """Scenes rendered once as the UNet's training set."""
    reuse_vae: bool = False
    """Take the VAE already in the output folder."""

    @property
    def folder(self) -> Path:
        """Return the output folder's absolute path."""
        return Path(files.resolve(self.output))


class Average:
    """Exponential moving average of a module's parameters, with a warm-up so that early steps are forgotten."""

    def __init__(self, module: torch.nn.Module, decay: float = 0.999) -> None:
        self.decay, self.updates = decay, 0
        self.values = [p.detach().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Blend the module's current parameters in."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.values, list(module.parameters()), 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: torch.nn.Module) -> None:
        """Overwrite the module's parameters with the average."""
        for parameter, value in zip(module.parameters(), self.values, strict=True):
            parameter.copy_(value)


def schedule(step: int, steps: int, warmup: int = 100) -> float:
    """Return the factor on the learning rate: linear warm-up, then a cosine to zero."""
    ramp = min(1.0, (step + 1) / warmup)
    return ramp * 0.5 * (1 + np.cos(np.pi * step / steps))


def to_tensor(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Convert [B, 64, 64, 3] uint8 into [B, 3, 64, 64] float32 in -1..1, channels last."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def random_scene_image(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw any shape in colours near the palette's, or one time in eight in any, so that the VAE learns more."""
    low, high = VAE_RADII[str(rng.choice(list(VAE_RADII)))]
    radius = int(rng.integers(low, high + 1))
    x, y = (int(v) for v in rng.integers(radius + 2, RESOLUTION - radius - 2, size=2))
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
    config: Config, vae: AutoencoderKL, rng: np.random.Generator, steps: int, batch: int, edge_weight: float
) -> None:
    """Minimise mean absolute error, more where the image changes, plus a light KL; leave the averaged weights."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=config.vae_learning_rate, betas=(0.9, 0.99))
    average, started = Average(vae, 0.998), time.perf_counter()
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


def train_vae(config: Config) -> AutoencoderKL:
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


def refine_vae(config: Config, vae: AutoencoderKL) -> AutoencoderKL:
    """Sharpen a trained VAE's edges and set its scaling factor, so that latents have unit variance."""
    torch.manual_seed(config.seed + 2)
    rng = np.random.default_rng(config.seed + 2)
    fit_vae(config, vae, rng, config.vae_refine_steps, config.vae_refine_batch, edge_weight=8.0)
    with torch.no_grad():
        images = to_tensor(np.stack([random_scene_image(rng) for _ in range(512)]))
        spread = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(64)]).std().item()
    vae.register_to_config(scaling_factor=round(1 / spread, 5))
    return vae.eval().requires_grad_(False)


WORDS = ("a", "on", "background", *RADII, *COLOURS, *SHAPES)
MAX_TOKENS = 16


def build_tokenizer() -> CLIPTokenizer:
    """Make a CLIP tokenizer with one token for each of the world's words; other text falls back to single bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*alphabet, *(character + "</w>" for character in alphabet)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:  # merge from the left: r+e, re+d</w>
            merge = (pieces[0], pieces[1])
            pieces[:2] = [pieces[0] + pieces[1]]
            if merge not in merges:
                merges.append(merge)
                vocabulary.append(pieces[0])
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    numbered = {token: index for index, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=numbered, merges=merges, model_max_length=MAX_TOKENS)


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


def corrupt(scene: Scene, rng: np.random.Generator) -> Scene:
    """Replace one attribute by a random one: what a careless caption says of the scene."""
    name, values = [("size", list(RADII)), ("colour", list(COLOURS)), ("shape", SHAPES), ("background", list(COLOURS))][
        rng.integers(4)
    ]
    return replace(scene, **{name: str(rng.choice(values))})


@torch.no_grad()
def encoded_scenes(
    config: Config, vae: AutoencoderKL, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, list[Scene]]:
    """Render and encode the training scenes.

    Returns:
        Mean and standard deviation of each image's scaled latent, [N, 4, 8, 8] float32, and the true scenes.
    """
    every = all_scenes()
    scenes = [every[index] for index in rng.integers(len(every), size=config.images)]
    means, stds = [], []
    for start in range(0, len(scenes), 128):
        images = to_tensor(np.stack([render(scene, rng) for scene in scenes[start : start + 128]]))
        posterior = vae.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist
        means.append(posterior.mean * vae.config["scaling_factor"])
        stds.append(posterior.std * vae.config["scaling_factor"])
    return torch.cat(means).contiguous(), torch.cat(stds).contiguous(), scenes


def train_denoiser(
    config: Config, vae: AutoencoderKL, tokenizer: CLIPTokenizer
) -> tuple[CLIPTextModel, UNet2DConditionModel]:
    """Train text encoder and UNet together on the plain noise-prediction loss; keep the averaged weights."""
    torch.manual_seed(config.seed + 1)
    rng = np.random.default_rng(config.seed + 1)
    means, stds, scenes = encoded_scenes(config, vae, rng)
    text_encoder, unet = build_text_encoder(tokenizer), build_unet()
    trained = torch.nn.ModuleList([text_encoder, unet])
    print(f"unet {sum(p.numel() for p in unet.parameters()):,} parameters", flush=True)
    noising = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    optimizer = torch.optim.AdamW(trained.parameters(), lr=config.unet_learning_rate, weight_decay=1e-2)
    average, started = Average(trained), time.perf_counter()
    for step in range(config.unet_steps):
        optimizer.param_groups[0]["lr"] = config.unet_learning_rate * schedule(step, config.unet_steps)
        rows = rng.integers(len(scenes), size=config.unet_batch)
        captions = [
            ""
            if rng.random() < config.caption_dropout
            else (corrupt(scenes[row], rng) if rng.random() < config.wrong_captions else scenes[row]).caption
            for row in rows
        ]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        latents = means[rows] + stds[rows] * torch.randn(len(rows), 4, 8, 8)
        noise, timesteps = torch.randn_like(latents), torch.randint(0, 1000, (len(rows),))
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


def main(config: Config) -> None:
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
    cli.run(main, Config)
