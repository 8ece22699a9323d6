"""Make raw pairs from a model's own images: `python pipelines/rank_pairs.py --images runs/drawn --scorer pickscore`.

The images of each caption are cut into groups, in the order in which they were drawn. In a group a pair is the best
image and the worst by a scorer, or every two images are a pair. Equal scores are ties. The slot of an image depends on
the pair alone, so it does not reveal the label.
"""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from infra.base import files, tables
from infra.base.errors import UserError, check_least
from pipelines.drawing import image_sets
from pipelines.judging.rank_config import Pairs, RankConfig
from pipelines.judging.score_files import read_manifest, read_scores
from pipelines.raw import raw_pairs
from pipelines.raw.pairs import GROUP, hash64
from pipelines.raw.source import CONFIG

BATCH = 256  # images read at once
# All other settings of a folder, with caption and index, decide an image.
SETS_ONLY = ("model", "revision", "lora", "captions", "images_per_prompt")


@dataclass(frozen=True)
class Image:
    """One scored image."""

    image_id: int
    uid: str
    score: float


@dataclass(frozen=True)
class Group:
    """Images of one caption that are compared with each other, and their pairs, by position."""

    caption: str
    images: Sequence[Image]
    pairs: Sequence[tuple[int, int]]
    group_id: str | None = None  # where every two images are a pair: each is then written, and later encoded, once

    @property
    def compared(self) -> set[int]:
        """Return the ids of the images that stand in a pair."""
        return {self.images[position].image_id for pair in self.pairs for position in pair}


def choose(scores: Sequence[float], pairs: Pairs) -> list[tuple[int, int]]:
    """Choose the pairs of a group, each as two positions in ascending order.

    best-worst takes the first of the highest and the last of the lowest scores; where all are equal these still differ.
    """
    if pairs == "all":
        return list(itertools.combinations(range(len(scores)), 2))
    best = max(range(len(scores)), key=lambda index: (scores[index], -index))
    worst = min(range(len(scores)), key=lambda index: (scores[index], -index))
    return [(min(best, worst), max(best, worst))]


def drawing_of(identity: Mapping[str, Any]) -> str:
    """Return, as JSON, the settings that decide a folder's images, without captions and indices."""
    return json.dumps({name: value for name, value in identity.items() if name not in SETS_ONLY}, sort_keys=True)


def image_uid(drawn_with: str, image_id: int) -> str:
    """Name an image by its settings and its id; image_id alone is the same for every model and seed."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{drawn_with}/{image_id}"))


def read_groups(folder: str, config: RankConfig) -> list[Group]:
    """Cut each caption's scored images into groups, in the order of image_index, and choose their pairs.

    Raises:
        UserError: if the scorer has not scored them, or no caption has two images.
    """
    table = read_scores(folder).sort_by([("caption", "ascending"), ("image_index", "ascending")])
    if config.scorer not in table.column_names:
        raise UserError(f"--scorer {config.scorer}: has not scored {folder}; run score.py --scorers {config.scorer}")
    drawn_with = drawing_of(image_sets.read_manifest(folder)["identity"])
    groups = []
    rows = zip(*(table[name].to_pylist() for name in ("caption", "image_id", config.scorer)), strict=True)
    for caption, own in itertools.groupby(rows, key=lambda row: row[0]):
        images = [Image(image_id, image_uid(drawn_with, image_id), score) for _, image_id, score in own]
        for start in range(0, len(images), config.group_size):
            part = images[start : start + config.group_size]
            if len(part) > 1:
                compared = choose([image.score for image in part], config.pairs)
                groups.append(Group(caption, part, compared, _group_id(part) if config.pairs == "all" else None))
    if not groups:
        raise UserError(
            f"--images {config.images}: no caption has two images, as a pair must; draw with --images-per-prompt 4"
        )
    return groups


def _group_id(images: Sequence[Image]) -> str:
    return f"{hash64(b'group', *(image.uid.encode() for image in images)) % (1 << 64):016x}"


def lay_out(group: Group, contents: Mapping[int, bytes], model: str) -> list[dict[str, Any]]:
    """Lay the pairs of a group out as rows of raw pairs.

    Args:
        contents: encoded images by image_id.
        model: name of the model that drew them.
    """
    rows = []
    for pair in group.pairs:
        shown = [group.images[position] for position in pair]
        named = [image.uid.encode() for image in shown]
        if hash64(b"slots", *named) % 2:
            shown.reverse()
        scores = [image.score for image in shown]
        label_0 = 0.5 if scores[0] == scores[1] else float(scores[0] > scores[1])
        slots = [(image.uid, contents[image.image_id]) for image in shown]
        rows.append(raw_pairs.labelled_pair(hash64(b"ranked", *named), group.caption, slots, label_0, model))
    return rows if group.group_id is None else [row | {GROUP: group.group_id} for row in rows]


def read_contents(folder: str, wanted: Container[int]) -> Iterator[tuple[int, bytes]]:
    """Yield image_id and bytes of each wanted image, file by file."""
    for path in image_sets.image_files(folder):
        for batch in tables.batches(path, ["image_id", "image"], BATCH):
            rows = zip(batch["image_id"].to_pylist(), batch["image"].to_pylist(), strict=True)
            yield from (row for row in rows if row[0] in wanted)


def ranked_pairs(folder: str, groups: Sequence[Group], model: str) -> Iterator[dict[str, Any]]:
    """Yield the pairs of each group as soon as all its images were read, so that memory holds few images.

    Raises:
        UserError: if the folder lacks an image that was scored.
    """
    group_of = {image_id: number for number, group in enumerate(groups) for image_id in group.compared}
    held: dict[int, dict[int, bytes]] = {number: {} for number in range(len(groups))}
    for image_id, content in read_contents(folder, group_of):
        number = group_of[image_id]
        held[number][image_id] = content
        if len(held[number]) == len(groups[number].compared):
            yield from lay_out(groups[number], held.pop(number), model)
    if held:
        raise UserError(f"{folder}: scored images of {len(held)} groups are gone; draw and score them again")


def main(config: RankConfig) -> None:
    """Make raw pairs in Pick-a-Pic's columns from scored images of one model, ranked by a scorer."""
    check_least(config, {"group_size": 2})
    folder = files.resolve(config.images)
    output = files.resolve(config.output)
    groups = read_groups(folder, config)
    scores = read_manifest(folder, config.scorer)
    ranked = {"scores_sha256": scores["sha256"], "drawn_sha256": scores["identity"]["of"]}
    settings = {"config": asdict(config), **ranked}
    settings_file = files.join(output, CONFIG)
    ties = sum(group.images[one].score == group.images[other].score for group in groups for one, other in group.pairs)
    count = sum(len(group.pairs) for group in groups)
    earlier = asdict(config) | ranked  # how earlier versions wrote the same
    if files.exists(settings_file) and files.read_json(settings_file) in (settings, earlier):
        print(f"{output}: already ranked, nothing to do: {count} pairs, {ties} ties", flush=True)
        return
    identity = image_sets.read_manifest(folder)["identity"]
    model = identity.get("lora") or identity.get("model", "true renders")
    raw_pairs.write_pairs(output, ranked_pairs(folder, groups, model), settings)
    print(f"{output}: {count} pairs of {len(groups)} groups, {ties} ties", flush=True)
