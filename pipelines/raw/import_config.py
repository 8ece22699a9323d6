"""The importer's flags, apart from what imports."""

from __future__ import annotations

from dataclasses import dataclass

from infra.base.places import PathText


@dataclass(frozen=True)
class ImportConfig:
    """Flags of the importer."""

    table: PathText
    """CSV with a header (commas, semicolons or tabs), JSONL, or a JSON list: the columns caption, image_0, image_1 and
    label_0, or caption, image, and rank (1 is best) or rating (higher is better), with a group where captions do not
    tell the groups apart. The published JSON of HPDv2, HPDv3 and ImageRewardDB is read as it is."""
    images: PathText
    """Folder that the image names count from, local or s3://."""
    output: PathText = "runs/imported"
    """Folder for the raw pairs, local or s3://."""
