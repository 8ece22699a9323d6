"""Steps that score raw pairs, knowing no engine: raw rows to upright images, images and captions to scores.

The images of a pair are decoded once and go to every scorer. What is wrong with one pair costs that pair alone; a
scorer that fails on every pair of a batch is itself what is wrong, and is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from infra.errors import UserError
from labelers import scorers
from pipelines import pairs
from pipelines.images import BadImage, open_image

BROKEN = 8  # pairs of one batch: so many, all without a score, are not bad pairs but a broken scorer
NOT_FINITE = "score is not finite"

_DECODED = pa.schema(
    [("pair_id", pa.int64()), ("caption", pa.string()), ("reason", pa.string())]
    + [(f"pixels_{slot}", pa.large_binary()) for slot in (0, 1)]
    + [(f"{side}_{slot}", pa.int32()) for slot in (0, 1) for side in ("width", "height")]
)


class DecodePairs:
    """Turn raw rows into the wanted pairs' upright RGB images, at their full size."""

    def __init__(self, wanted: npt.NDArray[np.int64]) -> None:
        self.wanted = np.sort(wanted)

    def __call__(self, raw: pa.Table) -> pa.Table:
        """Keep the rows whose pair_id is wanted, and decode their images; reason says why one could not be."""
        ids = pairs.pair_ids(raw)
        # Not np.isin, which sorts all wanted ids for every batch: 7 ms a pair where they are Pick-a-Pic's.
        keep = np.searchsorted(self.wanted, ids) < np.searchsorted(self.wanted, ids, side="right")
        rows = raw.select(["caption", "jpg_0", "jpg_1"]).filter(pa.array(keep)).to_pylist()
        decoded = [{"caption": row["caption"]} | _decode(row) for row in rows]
        columns = {name: [row.get(name) for row in decoded] for name in _DECODED.names}
        return pa.table(columns | {"pair_id": ids[keep]}, schema=_DECODED)


def _decode(row: dict[str, Any]) -> dict[str, object]:
    out: dict[str, object] = {}
    for slot in (0, 1):
        try:
            image = open_image(row[f"jpg_{slot}"])
        except BadImage as error:
            return {"reason": f"image_{slot}: {error}"}
        out |= {f"pixels_{slot}": image.tobytes(), f"width_{slot}": image.width, f"height_{slot}": image.height}
    return out


def _images(decoded: pa.Table, slot: int) -> list[Image.Image]:
    columns = [decoded[f"{name}_{slot}"].to_pylist() for name in ("width", "height", "pixels")]
    found = zip(*columns, strict=True)
    return [Image.frombytes("RGB", (width, height), pixels) for width, height, pixels in found if pixels is not None]


class ScorePairs:
    """Score both slots of decoded pairs by every scorer."""

    def __init__(self, names: Sequence[str], weights: Mapping[str, str | None]) -> None:
        self.scorers = {name: scorers.load(name, weights.get(name)) for name in names}
        self.too_long: dict[tuple[str, str], bool] = {}  # by scorer and caption, so that each is asked once

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Score pairs.

        Returns:
            pair_id, prompt_id and for each scorer score_0, score_1 (float32, null where there is none), reason (null
            where there is a score) and truncated (whether the caption is over the scorer's limit), named COLUMN:SCORER.

        Raises:
            UserError: if a scorer fails on every pair of a batch.
        """
        return self.score(decoded, BROKEN)

    def score(self, decoded: pa.Table, broken: int) -> pa.Table:
        """Score pairs; a scorer that fails on all of at least `broken` pairs is refused."""
        every, good = decoded["caption"].to_pylist(), decoded["reason"].is_null().to_numpy()
        # Not the table filtered, which would copy all pixels.
        images, captions = (_images(decoded, 0), _images(decoded, 1)), list(itertools.compress(every, good))
        columns: dict[str, pa.Array] = {
            "pair_id": decoded["pair_id"],
            "prompt_id": pa.array([pairs.prompt_id(caption) for caption in every], pa.int64()),
        }
        for name, scorer in self.scorers.items():
            scores, told = judge(scorer, images, captions)
            if len(told) >= broken and all(told):
                raise UserError(f"scorer {name}: {told[0]}, on every one of {len(told)} pairs")
            spread = np.full((2, len(every)), np.nan, np.float32)
            spread[:, good] = scores
            reasons = np.array(decoded["reason"].to_pylist(), object)
            reasons[good] = told
            for slot in (0, 1):
                columns[f"score_{slot}:{name}"] = pa.array(spread[slot], pa.float32(), from_pandas=True)
            columns[f"reason:{name}"] = pa.array(reasons, pa.string())
            columns[f"truncated:{name}"] = pa.array([self._truncated(name, caption) for caption in every], pa.bool_())
        return pa.table(columns)

    def _truncated(self, name: str, caption: str) -> bool:
        count = getattr(self.scorers[name], "truncated", None)
        if count is None:
            return False
        if (name, caption) not in self.too_long:
            self.too_long[name, caption] = bool(count([caption]))
        return self.too_long[name, caption]


def judge(
    scorer: scorers.Scorer, images: tuple[list[Image.Image], list[Image.Image]], captions: list[str]
) -> tuple[npt.NDArray[np.float32], list[str | None]]:
    """Score both slots of pairs in one call; where that raises, pair by pair, so that one pair costs only itself.

    Returns:
        [2, n] float32, NaN for a pair without a score; and for each pair why it has none, or None.

    Raises:
        UserError: if the scorer's memory does not suffice.
    """
    count = len(captions)
    if not count:
        return np.empty((2, 0), np.float32), []
    try:
        scores = np.array(scorer.score([*images[0], *images[1]], [*captions, *captions]), np.float32)
        if scores.shape != (2 * count,):
            raise ValueError(f"scores of shape {list(scores.shape)} for {2 * count} images")
    except Exception as error:  # a scorer is anybody's code
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise UserError(f"{2 * count} images at once are too many for the memory; lower --batch-size") from error
        if count == 1:
            text = (str(error).strip().splitlines() or [""])[0]
            return np.full((2, 1), np.nan, np.float32), [f"scorer raised {type(error).__name__}: {text}"[:300]]
        alone = [judge(scorer, ([first], [second]), [c]) for first, second, c in zip(*images, captions, strict=True)]
        return np.concatenate([part for part, _ in alone], axis=1), [told for _, reasons in alone for told in reasons]
    scores = scores.reshape(2, count)
    finite = np.isfinite(scores[0]) & np.isfinite(scores[1])
    scores[:, ~finite] = np.nan
    return scores, [None if fine else NOT_FINITE for fine in finite]


def try_first(names: Sequence[str], weights: Mapping[str, str | None], raw: pa.Table) -> dict[str, str]:
    """Let scorers score a first batch of raw pairs; returns their fingerprints.

    Raises:
        UserError: if a scorer cannot be loaded or fails on every one of them.
    """
    step = ScorePairs(names, weights)
    step.score(DecodePairs(pairs.pair_ids(raw))(raw), broken=1)
    return {name: scorer.fingerprint for name, scorer in step.scorers.items()}
