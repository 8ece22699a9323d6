"""The draws: the randomness of one visit to a pair, a pure function of (seed, epoch, pair_id).

It never depends on a rank's generator, so streams are the same at any world size, and another job can compute the same
draws ahead (Wallace et al. 2023, Eq. 14: timestep and noise are shared by the two images of a pair).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

REWARD_DRAWS = 10  # per pair, S4.1
REWARD_SEED = 20_231_121  # its draws belong to no training run, so that figures of different runs compare


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One visit's randomness."""

    timestep: int  # as the backbone counts them
    noise: npt.NDArray[np.float32]  # [C, H, W], standard normal, shared by both slots
    drop_caption: bool
    flip: bool
    posterior: npt.NDArray[np.float32]  # [2, C, H, W], standard normal, independent per slot; empty unless asked for


def draw(
    seed: int,
    epoch: int,
    key: int,
    shape: tuple[int, int, int],
    timestep: Callable[[float], int],
    caption_dropout: float = 0.0,
    posterior: bool = False,
) -> Draw:
    """Draw one visit.

    The uniforms come first and are always all taken, so no setting changes what another one draws.

    Args:
        key: the pair's id, or that of its group, whose pairs then have this draw in common.
        shape: (C, H, W) of a latent.
        timestep: the backbone's map from a uniform number in [0, 1) to a timestep.
        caption_dropout: probability that the caption gives way to the empty one, for both slots.
        posterior: draw the VAE posterior's noise too.
    """
    generator = _generator(f"draw/{seed}/{epoch}/{key}")
    uniform = generator.random(3)
    noise = generator.standard_normal(shape, dtype=np.float32)
    slots = generator.standard_normal((2, *shape), dtype=np.float32) if posterior else np.empty(0, np.float32)
    return Draw(
        timestep=timestep(float(uniform[0])),
        noise=noise,
        drop_caption=bool(uniform[1] < caption_dropout),
        flip=bool(uniform[2] < 0.5),
        posterior=slots,
    )


def image_posterior(seed: int, epoch: int, image_id: int, shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Draw the VAE posterior's noise of an image of a group, which all its pairs have in common: standard normal."""
    return _generator(f"posterior/{seed}/{epoch}/{image_id}").standard_normal(shape, dtype=np.float32)


def _generator(key: str) -> np.random.Generator:
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
