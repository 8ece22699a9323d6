"""Train the embedded world's tiny scorers: `python infra/world/train_scorers.py`.

The steps are those of the real scorers. First a CLIP is trained contrastively on captioned renders. From it come
models like HPSv2 and PickScore, tuned on preferences, and an aesthetic head, fitted to vividness. The oracle plays the
human raters. It takes about twelve minutes on one core. The result is committed in the real checkpoints' file formats.
"""

from __future__ import annotations

import copy
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from infra.base import (
    cli,
    files,
    torchvision_guard,  # noqa: F401  (before open_clip and transformers)
)
from infra.base.places import PathText

import open_clip  # isort: skip
from transformers import CLIPTokenizer

from infra.world import scorer_files
from infra.world.fitting import schedule
from infra.world.rater import Rater
from infra.world.scorer_images import Judged, model_choices, rendered_choices, train_scenes, true_renders, vividness
from infra.world.vocabulary import build_tokenizer
from labelers.clips.aesthetics import Head

SCALE = float(np.log(1 / 0.07))  # logit_scale before training, as CLIP's


@dataclass(frozen=True, kw_only=True)
class ScorersConfig:
    """Flags of the training of the embedded world's scorers."""

    output: PathText = "infra/world/scorers"
    """Folder to write one folder per scorer into."""
    seed: int = 0
    contrastive_steps: int = 700
    contrastive_batch: int = 256
    """Different captions, one image each."""
    contrastive_learning_rate: float = 1e-3
    preference_steps: int = 200
    preference_batch: int = 128
    """Pairs."""
    preference_learning_rate: float = 2e-4
    rater_temperature: float = 0.02
    """Of the Bradley-Terry choices, in units of the oracle's score."""
    model_images: int = 4
    """Images of the base model per training caption."""
    sampling_steps: int = 12
    guidance_scale: float = 3.0
    head_steps: int = 1500
    head_batch: int = 512
    """Images."""
    head_learning_rate: float = 1e-3


def to_input(pixels: npt.NDArray[np.uint8], antialias: bool) -> torch.Tensor:
    """Resize [B, 64, 64, 3] uint8 to a scorer's input, [B, 3, 48, 48] float32, normalised as CLIP's is."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    size = (scorer_files.IMAGE_SIZE, scorer_files.IMAGE_SIZE)
    resized = F.interpolate(images, size, mode="bicubic", antialias=antialias)
    mean = torch.tensor(scorer_files.MEAN).view(3, 1, 1)
    std = torch.tensor(scorer_files.STD).view(3, 1, 1)
    return (resized - mean) / std


def disturb(images: torch.Tensor) -> torch.Tensor:
    """Shift colours a little and add noise, so that a model trained on renders can read drawn images."""
    tint = 0.1 * torch.randn(len(images), 3, 1, 1)
    noise = 0.25 * torch.rand(len(images), 1, 1, 1) * torch.randn_like(images)
    return images + tint + noise


def fit(name: str, model: torch.nn.Module, steps: int, rate: float, loss_of: Callable[[], torch.Tensor]) -> None:
    """Minimise a loss by AdamW under a warm-up and a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05, betas=(0.9, 0.98))
    started = time.perf_counter()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * schedule(step, steps, warmup=50)
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"{name} {step:5d}  loss {loss.item():.4f}  {time.perf_counter() - started:.0f} s", flush=True)


def train_contrastive(config: ScorersConfig, tokenizer: CLIPTokenizer) -> open_clip.CLIP:
    """Train image and text tower on the symmetric InfoNCE loss of CLIP (Radford et al. 2021, Fig. 3)."""
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    renders = true_renders(20, rng)
    tokens = tokenize(tokenizer, [scene.caption for scene in train_scenes()])
    model = scorer_files.build_model(tokenizer, scorer_files.TRAINED_TOKENS)

    def loss() -> torch.Tensor:
        rows = rng.permutation(len(renders))[: config.contrastive_batch]
        pixels = renders[rows, rng.integers(renders.shape[1], size=len(rows))]
        images = model.encode_image(disturb(to_input(pixels, antialias=True)), normalize=True)
        logits = model.logit_scale.exp() * images @ model.encode_text(tokens[rows], normalize=True).T
        target = torch.arange(len(rows))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    fit("clip", model, config.contrastive_steps, config.contrastive_learning_rate, loss)
    return model


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Turn captions into ids [B, TRAINED_TOKENS] int64."""
    return tokenizer(
        captions, padding="max_length", max_length=scorer_files.TRAINED_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


def train_preference(
    config: ScorersConfig,
    name: str,
    start: open_clip.CLIP,
    tokenizer: CLIPTokenizer,
    choices: list[Judged],
    noisy: bool,
    antialias: bool,
) -> open_clip.CLIP:
    """Tune a copy of a CLIP so that scaled cosines are Bradley-Terry logits of the oracle's choices.

    Args:
        choices: where pairs come from, each batch from the next one.
        noisy: one rater's choice per pair, ties and errors included, as in the world's raw pairs; else the share of
            many raters who would choose so.
        antialias: how the scorer's own preprocessing resizes.
    """
    torch.manual_seed(config.seed + 1)
    rng = np.random.default_rng(config.seed + 1)
    model = copy.deepcopy(start)
    torch.nn.init.constant_(model.logit_scale, SCALE)  # the scale that tells captions apart is too large for choices
    tokens = [tokenize(tokenizer, judged.captions) for judged in choices]
    rater = Rater(temperature=config.rater_temperature)
    turns = itertools.cycle(zip(choices, tokens, strict=True))

    def loss() -> torch.Tensor:
        judged, text = next(turns)
        rows = rng.permutation(len(judged.captions))[: config.preference_batch]
        slots = np.stack([rng.permutation(judged.scores.shape[1])[:2] for _ in rows])
        pixels = np.concatenate([judged.pixels[rows, slots[:, 0]], judged.pixels[rows, slots[:, 1]]])
        first = judged.scores[rows, slots[:, 0]]
        second = judged.scores[rows, slots[:, 1]]
        if noisy:
            labels = np.array([rater.label(float(a), float(b), rng) for a, b in zip(first, second, strict=True)])
        else:
            labels = 1 / (1 + np.exp(-(first - second) / rater.temperature))
        images = model.encode_image(to_input(pixels, antialias), normalize=True).unflatten(0, (2, -1))
        cosines = (images * model.encode_text(text[rows], normalize=True)).sum(-1)
        logits = model.logit_scale.exp() * (cosines[0] - cosines[1])
        return F.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels).float())

    fit(name, model, config.preference_steps, config.preference_learning_rate, loss)
    return model


def train_head(config: ScorersConfig, model: open_clip.CLIP, pixels: npt.NDArray[np.uint8]) -> Head:
    """Fit the aesthetic head to vividness on the scale 1 to 10, mean squared error, over a frozen image tower."""
    torch.manual_seed(config.seed + 2)
    with torch.no_grad():
        parts = [to_input(part, antialias=True) for part in np.array_split(pixels, max(1, len(pixels) // 256))]
        embeddings = torch.cat([model.encode_image(part, normalize=True) for part in parts])
    wanted = 1 + 9 * torch.from_numpy(vividness(pixels))
    head = Head(embeddings.shape[1])
    with torch.no_grad():
        list(head.parameters())[-1].fill_(wanted.mean())

    def loss() -> torch.Tensor:
        rows = torch.randperm(len(wanted))[: config.head_batch]
        return F.mse_loss(head(embeddings[rows]), wanted[rows])

    fit("aesthetics", head, config.head_steps, config.head_learning_rate, loss)
    return head


def main(config: ScorersConfig) -> None:
    """Train all scorers and write each in its checkpoint's real format."""
    torch.set_num_threads(1)
    tokenizer = build_tokenizer()
    output = Path(files.resolve(config.output))
    clip = train_contrastive(config, tokenizer)
    scorer_files.write_open_clip(output / "clip", clip, tokenizer)
    scorer_files.write_transformers(output / "aesthetics", clip, tokenizer)

    rendered = rendered_choices(np.random.default_rng(config.seed + 3))
    captions = [scene.caption for scene in train_scenes()]
    drawn = model_choices(captions, config.model_images, config.sampling_steps, config.guidance_scale, config.seed)
    pixels = [judged.pixels.reshape(-1, *judged.pixels.shape[2:]) for judged in (rendered, drawn)]
    scorer_files.write_head(output / "aesthetics", train_head(config, clip, np.concatenate(pixels)))

    tune = functools.partial(train_preference, config, tokenizer=tokenizer)
    pickscore = tune("pickscore", clip, choices=[drawn], noisy=True, antialias=True)
    scorer_files.write_transformers(output / "pickscore", pickscore, tokenizer)
    hps = tune("hpsv2", clip, choices=[rendered, drawn], noisy=False, antialias=False)
    scorer_files.write_hps(output / "hpsv2", hps, tokenizer, "HPS_v2_compressed.pt")
    newer = tune("hpsv2.1", hps, choices=[rendered, drawn, drawn], noisy=False, antialias=False)
    scorer_files.write_hps(output / "hpsv2.1", newer, tokenizer, "HPS_v2.1_compressed.pt")

    settings = {name: value for name, value in vars(config).items() if name != "output"}
    files.write_json(str(output / "trained_with.json"), settings)


if __name__ == "__main__":
    cli.run(main, ScorersConfig)
