"""Two models' images of the same prompts and start noise, judged as pairs by models behind an address.

Such a judge gives no image a score of its own. Of a pair the better image has 1 and the other 0, and in a tie both have
a half. So the win rate of these numbers is that of its verdicts.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from infra.base.errors import UserError
from labelers.scoring import scorers
from labelers.scoring.endpoint import EndpointScorer
from labelers.scoring.reasons import is_unanswered
from pipelines.drawing.image_sets import read_images


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What a judge said of pairs."""

    policy: npt.NDArray[np.float32]  # [n], 1, 0.5 or 0
    order_disagreements: int  # pairs where it preferred another image once the order changed: ties
    without_verdict: int  # pairs where an answer names no winner: ties
    unanswered: int  # pairs that the server gave no answer to, and may be asked for again: ties until then

    @property
    def base(self) -> npt.NDArray[np.float32]:
        """Return the base's points, [n]."""
        return 1 - self.policy


def judges_of_pairs(weights: Mapping[str, str | None]) -> dict[str, EndpointScorer]:
    """Pick the judges that compare images, from scorers by name, as scorers.described has them."""
    loaded = {name: scorers.load(name, own) for name, own in weights.items()}
    return {
        name: judge
        for name, judge in loaded.items()
        if isinstance(judge, EndpointScorer) and judge.config.ask == "pairwise"
    }


def judge_pairs(name: str, judge: EndpointScorer, folders: Sequence[str], ids: Sequence[int], batch: int) -> Verdicts:
    """Ask which of two folders' images is better, for each image id; what was answered before is not asked again.

    Args:
        folders: of the policy's and of the base's images.
        ids: [n], of images that both have.
        batch: pairs in memory at once.

    Raises:
        UserError: if the server has stopped answering, or gave no verdict at all.
    """
    points: list[npt.NDArray[np.float32]] = []
    reasons: list[str] = []
    disagreed = 0
    for start in range(0, len(ids), batch):
        part = ids[start : start + batch]
        shown = [_open(folder, part) for folder in folders]
        captions = shown[0][1]
        scores, failures, counted = judge.judge_pairs(shown[0][0], shown[1][0], captions)
        points.append(np.nan_to_num(scores[0], nan=0.5))
        reasons += [reason for reason in failures if reason]
        disagreed += int(counted["order_disagreements"].sum())
        print(f"pairs judged by {name}: {start + len(part):,} of {len(ids):,}", flush=True)
    if len(reasons) == len(ids):
        commonest = Counter(reasons).most_common(1)[0][0]
        raise UserError(f"scorer {name}: no verdict on any of {len(ids)} pairs; the commonest reason is: {commonest}")
    unanswered = sum(map(is_unanswered, reasons))
    if unanswered:
        print(
            f"{unanswered:,} pairs have no answer of {name} yet and count as ties; the same command asks for these",
            flush=True,
        )
    return Verdicts(
        policy=np.concatenate(points),
        order_disagreements=disagreed,
        without_verdict=len(reasons) - unanswered,
        unanswered=unanswered,
    )


def _open(folder: str, ids: Sequence[int]) -> tuple[list[Image.Image], list[str]]:
    """Read images and captions in the order of their ids."""
    table = read_images(folder, ids, columns=["caption", "image"])
    rows = {row["image_id"]: row for row in table.to_pylist()}
    contents = [rows[image_id]["image"] for image_id in ids]
    images = [Image.open(io.BytesIO(content), formats=("PNG",)).convert("RGB") for content in contents]
    return images, [rows[image_id]["caption"] for image_id in ids]
