"""Images of a store of groups at the draws of their groups: what the reference is asked, once for all their pairs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from training.data.stored import StoredPairs
from training.method.batch import Images
from training.method.draws import draw, image_posterior


def begin_images(
    pairs: StoredPairs,
    rows: npt.NDArray[np.int64],
    shown_by: npt.NDArray[np.int64],
    seed: int,
    epoch: int,
    timestep: Callable[[float], int],
    dropout: float,
) -> Callable[[], Images]:
    """Make the draws of images' groups and begin to read them; what is returned waits for them.

    Timestep, noise and caption of each image are those of its pairs.

    Args:
        pairs: of a store of groups.
        rows: [N] of its images.
        shown_by: [N], for each a pair that shows it.
        timestep: the backbone's map from a uniform number to a timestep.
        dropout: probability that a caption gives way to the empty one.
    """
    groups = pairs.groups
    assert groups is not None
    manifest = pairs.manifest
    keys = groups.pair_groups[shown_by]
    draws = [draw(seed, epoch, int(key), manifest.latent_shape, timestep, dropout) for key in keys]
    dropped = np.array([drawn.drop_caption for drawn in draws])
    wanted = np.where(dropped, pairs.empty_prompt, pairs.prompt_rows[shown_by])
    captions, places = np.unique(wanted, return_inverse=True)  # each is read once
    prompts = pairs.prompts.begin(captions.astype(np.int64))
    turns = np.array([drawn.flip for drawn in draws]) if manifest.flip else None
    read = groups.images.begin(rows, turns)

    def finish() -> Images:
        latents = read()["latents"]
        if manifest.posterior == "moments":
            mean, std = np.split(latents.astype(np.float32), 2, axis=1)
            ids = groups.image_ids[rows]
            noise = [image_posterior(seed, epoch, int(image), manifest.latent_shape) for image in ids]
            latents = mean + std * np.stack(noise)
        return Images(
            latents=torch.from_numpy(latents).float(),
            noise=torch.from_numpy(np.stack([drawn.noise for drawn in draws])),
            timesteps=torch.tensor([drawn.timestep for drawn in draws]),
            conditioning={name: torch.from_numpy(values[places]).float() for name, values in prompts().items()},
        )

    return finish
