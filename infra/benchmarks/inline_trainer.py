"""Diffusion-DPO in one process that encodes in every step, as the authors' train.py works; no line of it is theirs.

`python infra/benchmarks/inline_trainer.py SOURCE MODEL OUTPUT STEPS` stands beside the product and imports none of it
but the allocator's settings, which both sides of a comparison need. Images are decoded when they are used; winner and
loser go together through VAE, policy and reference; the loss is eq. 14 of Wallace et al. 2023 with its constant in
beta, as the authors' code has it.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infra.base import torchvision_guard  # noqa: F401  (before diffusers)

from datasets import load_dataset  # isort: skip
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import CLIPTextModel, CLIPTokenizer

from infra.base.cpu import keep_freed_memory

Batch = tuple[torch.Tensor, torch.Tensor]


def pixels(content: bytes, side: int) -> torch.Tensor:
    """Decode an image to [3, side, side] float32 in [-1, 1]."""
    image = Image.open(io.BytesIO(content)).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def batches(source: str, tokenizer: CLIPTokenizer, side: int, size: int) -> Iterator[Batch]:
    """Yield shuffled batches for ever: images [2, B, 3, side, side], the winners first, and tokens [B, L]."""
    files = sorted(str(path) for path in Path(source).glob("*.parquet"))
    pairs = load_dataset("parquet", data_files=files, split="train").filter(lambda row: row["label_0"] in (0.0, 1.0))

    def collate(rows: list[dict[str, Any]]) -> Batch:
        slots = [(0, 1) if row["label_0"] == 1.0 else (1, 0) for row in rows]
        shown = [
            [pixels(row[f"jpg_{slot[place]}"], side) for row, slot in zip(rows, slots, strict=True)] for place in (0, 1)
        ]
        captions = [row["caption"] for row in rows]
        length = tokenizer.model_max_length
        tokens = tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return torch.stack([torch.stack(images) for images in shown]), tokens.input_ids

    loader = DataLoader(pairs, batch_size=size, shuffle=True, drop_last=True, collate_fn=collate)
    while True:
        yield from loader


def errors(
    network: UNet2DConditionModel, noisy: torch.Tensor, times: torch.Tensor, text: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """Return the mean squared error of a noise prediction per image, [2, B]: winners, losers."""
    predicted = network(noisy, times, text).sample
    return (predicted - noise).square().mean(dim=(1, 2, 3)).unflatten(0, (2, -1))


def train(source: str, model: str, output: str, steps: int, size: int, pieces: int) -> None:
    """Take optimizer steps of size x pieces pairs each, and save the pipeline with the trained network."""
    vae = AutoencoderKL.from_pretrained(model, subfolder="vae").requires_grad_(False)
    encoder = CLIPTextModel.from_pretrained(model, subfolder="text_encoder").requires_grad_(False)
    tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer")
    schedule = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
    policy = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
    reference = UNet2DConditionModel.from_pretrained(model, subfolder="unet").requires_grad_(False)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-5)
    feed = batches(source, tokenizer, int(vae.config["sample_size"]), size)
    for step in range(steps):
        for _ in range(pieces):
            images, tokens = next(feed)
            with torch.no_grad():
                latents = vae.encode(images.flatten(0, 1)).latent_dist.sample() * vae.config["scaling_factor"]
                text = encoder(tokens).last_hidden_state.repeat(2, 1, 1)
            noise = torch.randn_like(latents[:size]).repeat(2, 1, 1, 1)
            times = torch.randint(0, len(schedule.alphas_cumprod), (size,)).repeat(2)
            noisy = schedule.add_noise(latents, noise, times)
            ours = errors(policy, noisy, times, text, noise)
            with torch.no_grad():
                theirs = errors(reference, noisy, times, text, noise)
            inside = (ours[0] - ours[1]) - (theirs[0] - theirs[1])
            (-functional.logsigmoid(-250.0 * inside).mean() / pieces).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step + 1} of {steps}", flush=True)
    StableDiffusionPipeline.from_pretrained(model, unet=policy).save_pretrained(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("source", "model", "output"):
        parser.add_argument(name)
    parser.add_argument("steps", type=int)
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--pieces", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    train(given.source, given.model, given.output, given.steps, given.micro_batch, given.pieces)
