"""Ask what the tiny scorers are worth: `python infra/world/judge_scorers.py`, on captions that none was trained on.

Two images of the base model per test caption, at seeds of their own: how often a scorer orders them as the oracle
does, and how its scores go along with vividness. And two renders, one true and one with a wrong attribute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.stats import binomtest, pearsonr

from infra.base import cli
from infra.world.label_pairs import LabelConfig
from infra.world.scorer_images import Judged, model_choices, true_and_wrong, vividness
from infra.world.shapes import split_captions
from labelers.scoring import scorers


@dataclass(frozen=True)
class JudgeConfig:
    """Flags of the judgement."""

    scorers: tuple[str, ...] = ("pickscore", "hpsv2", "hpsv2.1", "clip", "aesthetics")
    """Names from labelers/scoring/scorers.py."""
    clear: float = 0.1
    """Oracle difference (0..1) from which a pair is clear, about a wrong size."""
    seed: int = 7
    """Of the images; training drew with 0."""


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
    wanted, tie = drawn.scores[:, 0] - drawn.scores[:, 1], LabelConfig(images="", output="").tie_margin
    print("| scorer | agrees with the oracle | on clear pairs | prefers the true render | r with vividness |")
    print("|---|---|---|---|---|")
    for name in config.scorers:
        scores, beside = score_pairs(name, drawn), score_pairs(name, rendered)
        agrees = np.sign(scores[:, 0] - scores[:, 1]) == np.sign(wanted)
        shares = [share(agrees[np.abs(wanted) >= margin]) for margin in (tie, config.clear)]
        shares.append(share(beside[:, 0] > beside[:, 1]))
        correlation = pearsonr(scores.ravel(), vividness(drawn.pixels).ravel()).statistic
        print(f"| {name} | {' | '.join(shares)} | {correlation:.3f} |", flush=True)


if __name__ == "__main__":
    cli.run(main, JudgeConfig)
