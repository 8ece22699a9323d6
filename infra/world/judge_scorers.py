"""Measure the tiny scorers on captions that none was trained on: `python infra/world/judge_scorers.py`.

The base model draws two images per test caption. The table says how often a scorer orders them as the oracle does, and
how its scores correlate with vividness. It also compares two renders, one true and one with a wrong attribute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.stats import binomtest, pearsonr

from infra.base import cli
from infra.world.rater import Rater
from infra.world.scorer_images import Judged, model_choices, true_and_wrong, vividness
from infra.world.shapes import split_captions
from labelers.scoring import scorers


@dataclass(frozen=True)
class JudgeConfig:
    """Flags of the judgement."""

    scorers: tuple[str, ...] = ("pickscore", "hpsv2", "hpsv2.1", "clip", "aesthetics")
    """Names from labelers/scoring/scorers.py."""
    clear: float = 0.1
    """Difference of oracle scores (0..1) from which a pair counts as clear; a wrong size alone makes about 0.1."""
    seed: int = 7
    """Seed of the images; training used 0."""


def score_pairs(name: str, judged: Judged) -> npt.NDArray[np.float32]:
    """Score two images of each caption, [C, 2] float32."""
    images = [Image.fromarray(pixels) for pixels in judged.pixels.reshape(-1, *judged.pixels.shape[2:])]
    captions = [caption for caption in judged.captions for _ in range(2)]
    return scorers.load(name).score(images, captions).reshape(-1, 2)


def share(right: npt.NDArray[np.bool_]) -> str:
    """Write a share with its 95 % Wilson interval."""
    low, high = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return f"{right.mean():.3f} ({low:.3f} to {high:.3f}) of {len(right)}"


def main(config: JudgeConfig) -> None:
    """Measure the tiny scorers against the oracle's order, against wrong renders, and against vividness."""
    torch.set_num_threads(1)
    captions = split_captions()["test"]
    drawn = model_choices(captions, 2, steps=12, guidance_scale=3.0, seed=config.seed)
    rendered = true_and_wrong(captions, np.random.default_rng(config.seed))
    oracle_margin = drawn.scores[:, 0] - drawn.scores[:, 1]
    print("| scorer | agrees with the oracle | on clear pairs | prefers the true render | r with vividness |")
    print("|---|---|---|---|---|")
    for name in config.scorers:
        scores = score_pairs(name, drawn)
        render_scores = score_pairs(name, rendered)
        agrees = np.sign(scores[:, 0] - scores[:, 1]) == np.sign(oracle_margin)
        shares = [share(agrees[np.abs(oracle_margin) >= least]) for least in (Rater.tie_margin, config.clear)]
        shares.append(share(render_scores[:, 0] > render_scores[:, 1]))
        correlation = pearsonr(scores.ravel(), vividness(drawn.pixels).ravel()).statistic
        print(f"| {name} | {' | '.join(shares)} | {correlation:.3f} |", flush=True)


if __name__ == "__main__":
    cli.run(main, JudgeConfig)
