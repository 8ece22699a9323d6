"""Pairs of one store set apart by caption: `--hold-out` names the share of captions that training never sees."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from infra.base import tables
from pipelines.latents import store
from pipelines.raw import pairs

if TYPE_CHECKING:
    from training.data.applied_labels import Labelled


def count(share: float, captions: int) -> int:
    """Return how many captions are held out: the share, rounded, but at least one and never all.

    Args:
        share: above 0 and below 1.
    """
    return min(max(1, round(share * captions)), captions - 1)


def is_held_out(prompt_rows: npt.NDArray[np.unsignedinteger], empty: int, number: int) -> npt.NDArray[np.bool_]:
    """Say which pairs have a caption that is held out: one of the first so many by id, which is a hash of its text.

    So the choice needs no seed, and is the same in each run over a store, whatever its labels. The empty caption,
    which stands in for dropped ones, is never held out.

    Args:
        prompt_rows: [n] row of each pair's caption among all captions, which are sorted by id.
        empty: row of the empty caption.
        number: of captions to hold out.
    """
    return (prompt_rows < number + (empty < number)) & (prompt_rows != empty)


def split(data: Labelled, share: float) -> tuple[Labelled, Labelled]:
    """Part labelled pairs by caption: those to train on, and those held out."""
    captions = data.pairs.prompt_rows[data.rows]
    number = count(share, data.pairs.manifest.counts.prompts)
    apart = is_held_out(captions, data.pairs.empty_prompt, number)
    return _where(data, ~apart), _where(data, apart)


def _where(data: Labelled, chosen: npt.NDArray[np.bool_]) -> Labelled:
    preferred = None if data.preferred is None else data.preferred[chosen]
    return replace(data, rows=data.rows[chosen], winners=data.winners[chosen], preferred=preferred)


def of_store(path: str, share: float) -> npt.NDArray[np.int64]:
    """Return the ids of a store's pairs that are held out; only its tables are read."""
    manifest = store.read_manifest(path)
    prompt_ids = np.sort(tables.read(store.files_of(path, manifest, "prompts"), ["prompt_id"])["prompt_id"].to_numpy())
    kept = tables.read(store.files_of(path, manifest, store.KEPT), ["pair_id", "prompt_id"])
    rows = np.searchsorted(prompt_ids, kept["prompt_id"].to_numpy()).astype(np.uint32)
    empty = int(np.searchsorted(prompt_ids, pairs.prompt_id("")))
    return kept["pair_id"].to_numpy()[is_held_out(rows, empty, count(share, manifest.counts.prompts))]
