"""A store opened for training: by its index where it lies, or from a copy where it has none."""

from __future__ import annotations

from pipelines.latents import store
from training.data import direct
from training.data.staging import stage
from training.data.stored import StoredPairs


def open_store(path: str, cache: str | None = None) -> StoredPairs:
    """Open a finished store.

    Args:
        cache: folder for what a node keeps of a store on S3, or of one without an index.

    Raises:
        UserError: as direct.open_pairs and stage do.
    """
    manifest = store.read_manifest(path)
    return direct.open_pairs(path, manifest, cache) if direct.is_addressable(manifest) else stage(path, cache)
