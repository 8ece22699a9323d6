"""Steps of the encoder, knowing no engine: raw rows to checked pixels, of pairs and of a group's images.

They import no library of networks: a cluster runs them in processes that need none.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipelines.latents import buckets, safety, schemas
from pipelines.raw import groups, pairs
from pipelines.raw.decode import BadImage, Fit, decode_image, open_image, shaped_pixels


class CheckAndDecode:
    """Turn raw rows into rows with a status, and the kept ones' images into pixels.

    Args:
        resolution: side of the square in pixels.
        shapes: the buckets that a pair may go to; without any, all images become squares.
        tolerance: greatest share of an image that its bucket may cut off.
    """

    def __init__(
        self,
        resolution: int,
        strict_labels: bool,
        blocklist: safety.Blocklist | None = None,
        fit: Fit = "crop",
        shapes: Sequence[buckets.Shape] = (),
        tolerance: float = 0.0,
    ) -> None:
        self.resolution = resolution
        self.fit = fit
        self.shapes = shapes
        self.tolerance = tolerance
        self.strict_labels = strict_labels
        self.blocklist = blocklist

    def __call__(self, raw: pa.Table) -> pa.Table:
        """Add pair_id, status, stage and reason to each row.

        Returns:
            The row's ids, label, uids and models, and of the kept height, width and pixels_0, pixels_1: [H*W*3] uint8
            as bytes.
        """
        ids = pairs.pair_ids(raw)
        rows = []
        for pair_id, row in zip(ids, pairs.as_rows(raw), strict=True):
            out: dict[str, object] = {
                name: as_text(row.get(name)) for name in ("image_0_uid", "image_1_uid", "model_0", "model_1")
            }
            out |= {"pair_id": int(pair_id), "contradicts": pairs.contradicts(row["label_0"], row.get("label_1"))}
            rows.append(out | self._judge(row))
        return pa.Table.from_pylist(rows, schema=_DECODED)

    def _judge(self, row: dict[str, object]) -> dict[str, object]:
        caption = row["caption"]
        label = row["label_0"]
        refusal = pairs.check_caption(caption) or pairs.check_label(label, row.get("label_1"), self.strict_labels)
        if refusal:
            return {"status": "quarantined", "stage": refusal.stage, "reason": refusal.reason}
        known = {"prompt_id": pairs.prompt_id(str(caption)), "label_0": label}
        if label == 0.5:
            return known | {"status": "tie"}
        unwanted = self.blocklist.reason(str(caption)) if self.blocklist else None
        if unwanted:
            return {"status": "quarantined", "stage": safety.STAGE, "reason": unwanted}
        try:
            images = [open_image(row[f"jpg_{slot}"]) for slot in (0, 1)]
        except BadImage as error:
            return {"status": "quarantined", "stage": "image", "reason": str(error)}
        height = self.resolution
        width = self.resolution
        if self.shapes:
            sizes = [(image.height, image.width) for image in images]
            height, width = buckets.nearest(sizes[0], self.shapes)
            misfit = buckets.misfit(sizes, (height, width), self.tolerance)
            if misfit:
                return {"status": "quarantined", "stage": buckets.STAGE, "reason": misfit}
        pixels = {
            f"pixels_{slot}": shaped_pixels(image, height, width, self.fit).tobytes()
            for slot, image in enumerate(images)
        }
        return known | pixels | {"height": height, "width": width, "status": "kept"}


_DECODED = pa.schema(
    [("pair_id", pa.int64()), ("prompt_id", pa.int64()), ("label_0", pa.float32())]
    + [(name, pa.string()) for name in schemas.TEXT_COLUMNS]
    + [("contradicts", pa.bool_()), ("status", pa.string())]
    + [(name, pa.int32()) for name in schemas.SIDES]
    + [("pixels_0", pa.large_binary()), ("pixels_1", pa.large_binary())]
)


def as_text(value: object) -> str | None:
    """Return a name as text; one that is not UTF-8 with its bytes spelled out."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return None if value is None else str(value)


class CheckAndDecodeImages:
    """Turn raw images (groups.IMAGE_SCHEMA) into rows with a status, and the kept ones into pixels."""

    def __init__(self, resolution: int, blocklist: safety.Blocklist | None = None, fit: Fit = "crop") -> None:
        self.resolution = resolution
        self.blocklist = blocklist
        self.fit = fit

    def __call__(self, raw: pa.Table) -> pa.Table:
        """Return the row's ids, uid, model, status, stage, reason, and pixels: [R*R*3] uint8, null unless kept."""
        rows = []
        for image_id, row in zip(groups.image_ids(raw), pairs.as_rows(raw), strict=True):
            named = {"image_id": int(image_id), "group_id": groups.group_key(row["group_id"])}
            rows.append(named | {name: row[name] for name in ("image_uid", "model")} | self._judge(row))
        return pa.Table.from_pylist(rows, schema=_DECODED_IMAGES)

    def _judge(self, row: dict[str, object]) -> dict[str, object]:
        refusal = pairs.check_caption(row["caption"])
        if refusal:
            return {"status": "quarantined", "stage": refusal.stage, "reason": refusal.reason}
        caption = str(row["caption"])
        unwanted = self.blocklist.reason(caption) if self.blocklist else None
        if unwanted:
            return {"status": "quarantined", "stage": safety.STAGE, "reason": unwanted}
        try:
            pixels = decode_image(row["jpg"], self.resolution, self.fit).tobytes()
        except BadImage as error:
            return {"status": "quarantined", "stage": "image", "reason": str(error)}
        sides = dict.fromkeys(schemas.SIDES, self.resolution)
        return {"prompt_id": pairs.prompt_id(caption), "pixels": pixels, **sides, "status": "kept"}


_DECODED_IMAGES = pa.schema(
    [(name, pa.int64()) for name in ("image_id", "group_id", "prompt_id")]
    + [(name, pa.string()) for name in ("image_uid", "model", "stage", "reason", "status")]
    + [*((name, pa.int32()) for name in schemas.SIDES), ("pixels", pa.large_binary())]
)
