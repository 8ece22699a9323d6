"""Steps that score raw pairs, independent of the engine: raw rows to upright images, images and captions to scores.

The images of a pair are decoded once and go to every scorer. A fault of one pair costs that pair alone. A scorer that
fails on every pair of a batch is itself at fault, and is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from infra.base.errors import UserError
from labelers.scoring import scorers
from labelers.scoring.reasons import COUNTED, NOT_FINITE, is_unanswered
from pipelines.raw import pairs
from pipelines.raw.decode import BadImage, open_image

BROKEN = 8  # pairs of one batch that, all without a score, show a broken scorer and not bad pairs

_DECODED = pa.schema(
    [("pair_id", pa.int64()), ("caption", pa.string()), ("reason", pa.string())]
    + [(f"pixels_{slot}", pa.large_binary()) for slot in (0, 1)]
    + [(f"{side}_{slot}", pa.int32()) for slot in (0, 1) for side in ("width", "height")]
)


@dataclass(frozen=True)
class Decoded:
    """Pairs with their upright RGB images, at full size."""

    ids: npt.NDArray[np.int64]  # [n]
    captions: list[str]
    reasons: list[str | None]  # why a pair's images could not be decoded
    images: tuple[list[Image.Image], list[Image.Image]]  # of slot 0 and slot 1, for the pairs without a reason


class DecodePairs:
    """Turn raw rows into the wanted pairs' upright RGB images, at their full size."""

    def __init__(self, wanted: npt.NDArray[np.int64]) -> None:
        self.wanted = np.sort(wanted)

    def decode(self, raw: pa.Table) -> Decoded:
        """Keep the rows whose pair_id is wanted, and decode their images; reasons say why one could not be."""
        ids = pairs.pair_ids(raw)
        # Not np.isin, which sorts all wanted ids for every batch: 7 ms a pair where they are Pick-a-Pic's.
        keep = np.searchsorted(self.wanted, ids) < np.searchsorted(self.wanted, ids, side="right")
        rows = raw.select(["caption", "jpg_0", "jpg_1"]).filter(pa.array(keep)).to_pydict()
        decoded = Decoded(ids[keep], rows["caption"], [], ([], []))
        for pair in zip(rows["jpg_0"], rows["jpg_1"], strict=True):
            opened, reason = _open(pair)
            decoded.reasons.append(reason)
            for slot, image in enumerate(opened):
                decoded.images[slot].append(image)
        return decoded

    def __call__(self, raw: pa.Table) -> pa.Table:
        """Decode the wanted pairs into a table, which travels to the scorers."""
        decoded = self.decode(raw)
        columns: dict[str, Any] = {"pair_id": decoded.ids, "caption": decoded.captions, "reason": decoded.reasons}
        bad = [reason is not None for reason in decoded.reasons]
        for slot, images in enumerate(decoded.images):
            good_images = iter(images)
            spread = [None if lacking else next(good_images) for lacking in bad]
            columns[f"pixels_{slot}"] = [image and image.tobytes() for image in spread]
            columns[f"width_{slot}"] = [image and image.width for image in spread]
            columns[f"height_{slot}"] = [image and image.height for image in spread]
        return pa.table(columns, schema=_DECODED)


def _open(encoded: Sequence[object]) -> tuple[list[Image.Image], str | None]:
    """Open both images of a pair, or say why not."""
    opened = []
    for slot, content in enumerate(encoded):
        try:
            opened.append(open_image(content))
        except BadImage as error:
            return [], f"image_{slot}: {error}"
    return opened, None


def _images(decoded: pa.Table, slot: int) -> list[Image.Image]:
    columns = [decoded[f"{name}_{slot}"].to_pylist() for name in ("width", "height", "pixels")]
    rows = zip(*columns, strict=True)
    return [Image.frombytes("RGB", (width, height), pixels) for width, height, pixels in rows if pixels is not None]


class ScorePairs:
    """Score both slots of decoded pairs by every scorer."""

    def __init__(self, names: Sequence[str], weights: Mapping[str, str | None]) -> None:
        self.scorers = {name: scorers.load(name, weights.get(name)) for name in names}
        self.too_long: dict[tuple[str, str], bool] = {}  # by scorer and caption, so that each is asked once

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Score the pairs of a table of DecodePairs."""
        ids = decoded["pair_id"].to_numpy()
        captions = decoded["caption"].to_pylist()
        reasons = decoded["reason"].to_pylist()
        return self.score(Decoded(ids, captions, reasons, (_images(decoded, 0), _images(decoded, 1))))

    def score(self, decoded: Decoded, on_trial: bool = False) -> pa.Table:
        """Score pairs; a scorer that fails on all of at least BROKEN pairs is refused.

        Args:
            on_trial: refuse it where it fails on all of any number. A server's missing answers are failures then;
                otherwise they cost their pairs alone, which may be asked for again.

        Returns:
            pair_id, prompt_id and for each scorer score_0, score_1 (float32, null where there is none), reason (null
            where there is a score) and truncated (whether the caption is over the scorer's limit), named COLUMN:SCORER.
            A scorer with judge_pairs adds COUNTED's columns (int64).

        Raises:
            UserError: if a scorer fails on every pair of a batch.
        """
        every = decoded.captions
        good = np.array([reason is None for reason in decoded.reasons], bool)
        captions = list(itertools.compress(every, good))
        columns: dict[str, pa.Array] = {
            "pair_id": pa.array(decoded.ids, pa.int64()),
            "prompt_id": pa.array([pairs.prompt_id(caption) for caption in every], pa.int64()),
        }
        for name, scorer in self.scorers.items():
            counted: Mapping[str, npt.NDArray[np.int64]] = {}
            if hasattr(scorer, "judge_pairs"):
                scores, failures, counted = scorer.judge_pairs(*decoded.images, captions)
            else:
                scores, failures = judge(scorer, decoded.images, captions)
            lasting = [reason for reason in failures if reason and (on_trial or not is_unanswered(reason))]
            if len(lasting) == len(failures) >= (1 if on_trial else BROKEN):
                raise UserError(f"scorer {name}: {failures[0]}, on every one of {len(failures)} pairs")
            spread = np.full((2, len(every)), np.nan, np.float32)
            spread[:, good] = scores
            reasons = np.array(decoded.reasons, object)
            reasons[good] = failures
            for slot in (0, 1):
                columns[f"score_{slot}:{name}"] = pa.array(spread[slot], pa.float32(), from_pandas=True)
            columns[f"reason:{name}"] = pa.array(reasons, pa.string())
            columns[f"truncated:{name}"] = pa.array([self._truncated(name, caption) for caption in every], pa.bool_())
            for kind in COUNTED if counted else ():
                numbers = np.zeros(len(every), np.int64)
                numbers[good] = counted[kind]
                columns[f"{kind}:{name}"] = pa.array(numbers)
        return pa.table(columns)

    def _truncated(self, name: str, caption: str) -> bool:
        count = getattr(self.scorers[name], "truncated", None)
        if count is None:
            return False
        if (name, caption) not in self.too_long:
            self.too_long[name, caption] = bool(count([caption]))
        return self.too_long[name, caption]


class ScoreRawPairs(ScorePairs):
    """Decode and score raw pairs in one step, where the CPU does both: a whole block at once, in its own batches.

    Nothing is copied between the two, and the engine is called once a block, not once a batch.
    """

    def __init__(
        self,
        wanted: npt.NDArray[np.int64],
        names: Sequence[str],
        weights: Mapping[str, str | None],
        batch_size: int,
    ) -> None:
        super().__init__(names, weights)
        self.decoder = DecodePairs(wanted)
        self.batch_size = batch_size

    def __call__(self, raw: pa.Table) -> pa.Table:
        """Decode and score the wanted pairs among raw rows; returns what score does."""
        starts = range(0, max(1, raw.num_rows), self.batch_size)
        return pa.concat_tables([self.batch(raw.slice(start, self.batch_size)) for start in starts])

    def batch(self, raw: pa.Table) -> pa.Table:
        """Decode and score one batch."""
        return self.score(self.decoder.decode(raw))


def judge(
    scorer: scorers.Scorer, images: tuple[list[Image.Image], list[Image.Image]], captions: list[str]
) -> tuple[npt.NDArray[np.float32], list[str | None]]:
    """Score both slots of pairs in one call, and pair by pair where that raises, so that a bad pair costs only itself.

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
    except Exception as error:  # a scorer may be any user's code
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise UserError(f"{2 * count} images at once are too many for the memory; lower --batch-size") from error
        if count == 1:
            text = (str(error).strip().splitlines() or [""])[0]
            return np.full((2, 1), np.nan, np.float32), [f"scorer raised {type(error).__name__}: {text}"[:300]]
        alone = [judge(scorer, ([first], [second]), [c]) for first, second, c in zip(*images, captions, strict=True)]
        scores = np.concatenate([part for part, _ in alone], axis=1)
        return scores, [reason for _, reasons in alone for reason in reasons]
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
    step.score(DecodePairs(pairs.pair_ids(raw)).decode(raw), on_trial=True)
    return {name: scorer.fingerprint for name, scorer in step.scorers.items()}
