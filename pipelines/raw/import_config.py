"""The importer's flags, apart from what imports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImportConfig:
    """Flags of the importer."""

    table: str
    """CSV with a header (commas, semicolons or tabs) or JSONL: the columns caption, image_0, image_1, label_0."""
    images: str
    """Folder that the image names count from, local or s3://."""
    output: str = "runs/imported"
    """Folder for the raw pairs, local or s3://."""
