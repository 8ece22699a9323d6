"""What a dry run counts where nothing is there yet: a known model's settings, and a store of Pick-a-Pic."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

from infra.base import models
from infra.base.errors import UserError
from pipelines.latents import addresses, autoencoders, kinds, store, text_columns
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


def planned_store(folder: Path, resolution: int, max_tokens: int | None, pairs: int, captions: int) -> store.Manifest:
    """Describe the store that the encoder would write of so many pairs, one sample of each image.

    Args:
        folder: of the model's settings.
        resolution: side of the images in pixels.
        max_tokens: as the user chose; None for the model's own length.
    """
    shape = autoencoders.latent_shape(autoencoders.vae_config(folder), resolution)
    embeddings = text_columns.embedding_shapes(folder, kinds.text_tokens(folder, max_tokens))
    caption = HALF * sum(math.prod(column) for column in embeddings.values())
    sizes: Mapping[str, int] = {
        "pairs/planned": 2 * HALF * pairs * math.prod(shape),
        "prompts/planned": (captions + 1) * caption,
        addresses.PAIRS: addresses.ROW_BYTES[addresses.PAIRS] * pairs,
        addresses.CAPTIONS: addresses.ROW_BYTES[addresses.CAPTIONS] * (captions + 1),
    }
    return store.Manifest(
        source="planned",
        model=str(folder),
        fingerprints={},
        resolution=resolution,
        latent_shape=shape,
        scaling_factor=1.0,
        shift_factor=0.0,
        posterior="sample",
        flip=False,
        embeddings=embeddings,
        counts=store.Counts(
            rows_in=pairs, ties=0, invalid=0, quarantined=0, kept=pairs, contradicting=0, prompts=captions
        ),
        reasons={},
        content_hash="planned",
        config={},
        files={name: {"bytes": size} for name, size in sizes.items()},
    )
