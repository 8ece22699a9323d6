"""What a dry run counts where nothing is there yet: a known model's settings, and a store of Pick-a-Pic."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.base import kept_counts, models
from infra.base.errors import UserError
from pipelines.latents import addresses, store
from pipelines.latents.models_known import MODELS

SHAPES = Path(__file__).parents[2] / "infra/benchmarks/shapes"  # settings of published models, by preset
PAIRS = 851_293  # of Pick-a-Pic v2's training split without ties (Wallace et al. 2023, Sec. 5.1)
CAPTIONS = 58_960  # of these pairs
HALF = 2  # bytes of a stored value


def settings_folder(model: models.Model) -> Path:
    """Return a folder of a model's settings; of a known model that is out of reach, those in the repository.

    Raises:
        UserError: if the model is out of reach, and its settings are not in the repository.
    """
    try:
        return model.folder(())
    except UserError:
        known = next((one.name for one in MODELS.values() if one.hub_name == model.name), None)
        if known is None or not (SHAPES / known).is_dir():
            raise
    print(f"--model {model.name}: is out of reach; its settings in {SHAPES / known} are counted", file=sys.stderr)
    return SHAPES / known


@dataclass(frozen=True, kw_only=True)
class NetworkWork:
    """The work of the frozen networks."""

    vae_parameters: int
    image: float  # FLOPs of the VAE's encoder for one image
    activations: int  # bytes at the peak of one batch of the VAE
    captions: Mapping[str, float]  # FLOPs of one caption by text encoder


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What a store has of each image and caption, by the model's settings."""

    resolution: int  # side of the square in pixels
    latent: tuple[int, int, int]  # (C, H, W) of the square's
    buckets: tuple[tuple[int, int, int], ...]  # of each bucket's latents; none without --buckets
    embeddings: Mapping[str, tuple[int, ...]]  # of each embedding column, per caption


def shapes_of(folder: Path, resolution: int | None, max_tokens: int | None, with_buckets: bool = False) -> Shapes:
    """Say what a store of a model has of each image and caption, as counted now or before.

    Args:
        folder: of the model's settings.
        resolution: side of the images in pixels, as the user chose; None for what the model was made for.
        max_tokens: as the user chose; None for the model's own length.

    Raises:
        UserError: as encode_counts.count_shapes does.
    """
    asked = {"resolution": resolution, "max_tokens": max_tokens, "with_buckets": with_buckets}

    def count() -> dict[str, Any]:
        from pipelines.latents import encode_counts  # which loads the libraries of networks

        return asdict(encode_counts.count_shapes(folder, resolution, max_tokens, with_buckets))

    counted = kept_counts.kept(folder, "shapes", asked, count)
    channels, height, width = counted["latent"]
    return Shapes(
        resolution=counted["resolution"],
        latent=(channels, height, width),
        buckets=tuple((channels, height, width) for channels, height, width in counted["buckets"]),
        embeddings={name: tuple(shape) for name, shape in counted["embeddings"].items()},
    )


def planned_store(
    folder: Path,
    resolution: int | None,
    max_tokens: int | None,
    pairs: int,
    captions: int,
    images: int | None = None,
) -> store.Manifest:
    """Describe the store that the encoder would write of so many pairs, one sample of each image.

    Args:
        folder: of the model's settings.
        resolution: side of the images in pixels; None for what the model was made for.
        max_tokens: as the user chose; None for the model's own length.
        images: that are encoded; None for two of each pair, which pairs of groups share.
    """
    shapes = shapes_of(folder, resolution, max_tokens)
    encoded = 2 * pairs if images is None else images
    caption = HALF * sum(math.prod(column) for column in shapes.embeddings.values())
    sizes: Mapping[str, int] = {
        "pairs/planned": encoded * HALF * math.prod(shapes.latent),
        "prompts/planned": (captions + 1) * caption,
        addresses.PAIRS: addresses.ROW_BYTES[addresses.PAIRS] * pairs,
        addresses.CAPTIONS: addresses.ROW_BYTES[addresses.CAPTIONS] * (captions + 1),
    }
    return store.Manifest(
        source="planned",
        model=str(folder),
        fingerprints={},
        resolution=shapes.resolution,
        latent_shape=shapes.latent,
        scaling_factor=1.0,
        shift_factor=0.0,
        posterior="sample",
        flip=False,
        embeddings=shapes.embeddings,
        counts=store.Counts(
            rows_in=pairs, ties=0, invalid=0, quarantined=0, kept=pairs, contradicting=0, prompts=captions
        ),
        reasons={},
        content_hash="planned",
        config={},
        files={name: {"bytes": size} for name, size in sizes.items()},
    )
