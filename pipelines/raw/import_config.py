"""The importer's flags, apart from what imports."""

from __future__ import annotations

from dataclasses import dataclass

from infra.base.places import PathOrName, PathText


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Flags of the importer."""

    table: PathOrName
    """Comparisons: a CSV with a header, JSONL, or a JSON list with the columns caption, image_0, image_1 and label_0,
    or caption, image, and rank (1 is best) or rating (higher is better), with a group where captions do not tell the
    groups apart. Or a public preference set as it is published, by its file, its folder or its name on the Hub. Or
    tars of WebDataset with pairs (KEY.0.jpg, KEY.1.jpg, KEY.json)."""
    images: PathText | None = None
    """Folder that the image names count from, local or s3://; by default the folder of the table."""
    split: str = "train"
    """Split of a named dataset, or of a folder whose files' names tell several."""
    output: PathText = "runs/imported"
    """Folder for the raw pairs, local or s3://."""
