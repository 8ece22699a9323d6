"""Ask what the tiny scorers are worth: `python infra/world/judge_scorers.py`, on captions that none was trained on.

Two images of the base model per test caption, at seeds of their own: how often a scorer orders them as the oracle
does, and how its scores go along with vividness.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy.stats import binomtest, pearsonr

from infra import cli
from infra.world.label_pairs import LabelConfig
from infra.world.scorer_images import model_choices, vividness
from infra.world.shapes import split_captions
from labelers import scorers


@dataclass(frozen=True)
class JudgeConfig:
    """Flags of the judgement."""

    scorers: tuple[str, ...] = ("pickscore", "hpsv2", "hpsv2.1", "clip", "aesthetics", "fidelity")
    """Names from labelers/scorers.py."""
    clear: float = 0.1
    """Oracle difference (0..1) from which a pair is clear, about a wrong size."""
    seed: int = 7
    """Of the images; training drew with 0."""


def main(config: JudgeConfig) -> None:
    """Measure the tiny scorers against the oracle's order and against vividness."""
    torch.set_num_threads(1)
    drawn = model_choices(split_captions()["test"], 2, steps=12, guidance_scale=3.0, seed=config.seed)
    images = [Image.fromarray(pixels) for pixels in drawn.pixels.reshape(-1, *drawn.pixels.shape[2:])]
    captions = [caption for caption in drawn.captions for _ in range(2)]
    oracle = drawn.scores[:, 0] - drawn.scores[:, 1]
    raters = LabelConfig(images="", output="")
    print("| scorer | agrees with the oracle | on clear pairs | r with vividness |\n|---|---|---|---|")
    for name in config.scorers:
        scores = scorers.load(name).score(images, captions)
        order = scores.reshape(-1, 2)[:, 0] - scores.reshape(-1, 2)[:, 1]
        shares = []
        for margin in (raters.tie_margin, config.clear):
            decided = np.abs(oracle) >= margin
            right = int((np.sign(order) == np.sign(oracle))[decided].sum())
            low, high = binomtest(right, int(decided.sum())).proportion_ci(method="wilson")
            shares.append(f"{right / decided.sum():.3f} ({low:.3f} to {high:.3f}) of {decided.sum()}")
        correlation = pearsonr(scores, vividness(drawn.pixels).ravel()).statistic
        print(f"| {name} | {shares[0]} | {shares[1]} | {correlation:.3f} |", flush=True)


if __name__ == "__main__":
    cli.run(main, JudgeConfig)
