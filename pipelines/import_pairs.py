"""Make raw pairs from your own comparisons: images and a CSV or JSONL of (caption, image_0, image_1, label_0).

`python pipelines/import_pairs.py --table pairs.csv --images photos --output raw`
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from infra import cli, files
from infra.errors import UserError
from pipelines.pairs import check_caption, check_label, hash64

COLUMNS = ("caption", "image_0", "image_1", "label_0")
ROWS_PER_FILE = 1024


@dataclass(frozen=True)
class ImportConfig:
    """Flags of the importer."""

    table: str
    """CSV (with a header) or JSONL with the columns caption, image_0, image_1, label_0."""
    images: str
    """Folder that the image names count from."""
    output: str = "runs/imported"
    """Folder for the raw pairs."""


def read_table(path: str) -> list[dict[str, Any]]:
    """Read the comparisons.

    Raises:
        UserError: naming the file and, where there is one, the row.
    """
    if not files.exists(path):
        raise UserError(f"--table {path}: no such file")
    content = files.read_bytes(path)
    try:
        if path.endswith(".jsonl"):
            rows = [json.loads(line) for line in content.decode().splitlines() if line.strip()]
        else:
            rows = pyarrow.csv.read_csv(pa.BufferReader(content)).to_pylist()
    except (ValueError, pa.ArrowInvalid) as error:
        raise UserError(f"--table {path}: not readable ({error})") from error
    for number, row in enumerate(rows):
        if missing := [name for name in COLUMNS if name not in row]:
            raise UserError(f"--table {path}: row {number} has no {', '.join(missing)}")
    return rows


def raw_pair(number: int, row: dict[str, Any], images: Path, table: str) -> dict[str, Any]:
    """Turn one comparison into a raw pair; the images' bytes go in as they are.

    Raises:
        UserError: naming the row, for a bad caption or label or an image that is not in the folder.
    """
    refusal = check_caption(row["caption"]) or check_label(row["label_0"], None, strict=False)
    if refusal:
        raise UserError(f"--table {table}: row {number}: {refusal.reason}")
    out: dict[str, Any] = {"caption": row["caption"], "label_0": float(row["label_0"]), "label_1": 1.0 - row["label_0"]}
    for slot in (0, 1):
        name = str(row[f"image_{slot}"])
        path = (images / name).resolve()
        if not path.is_relative_to(images.resolve()) or not path.is_file():
            raise UserError(f"--table {table}: row {number}: no image {name} in {images}")
        out |= {f"jpg_{slot}": path.read_bytes(), f"image_{slot}_uid": name, f"model_{slot}": "imported"}
    told = (out["caption"], out["image_0_uid"], out["image_1_uid"])
    return out | {"ranking_id": hash64(*(str(part).encode() for part in told)), "has_label": True}


def main(config: ImportConfig) -> None:
    """Make raw pairs in Pick-a-Pic's columns from a folder of images and a table of comparisons."""
    output, images = files.resolve(config.output), Path(files.resolve(config.images))
    rows = [
        raw_pair(number, row, images, config.table)
        for number, row in enumerate(read_table(files.resolve(config.table)))
    ]
    if not rows:
        raise UserError(f"--table {config.table}: no comparisons in it")
    for number, start in enumerate(range(0, len(rows), ROWS_PER_FILE)):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows[start : start + ROWS_PER_FILE]), sink)
        files.write_bytes(files.join(output, f"pairs-{number:04d}.parquet"), sink.getvalue().to_pybytes())
    print(f"{output}: {len(rows)} raw pairs; next: python pipelines/encode_latents.py --source {output}", flush=True)


if __name__ == "__main__":
    cli.run(main, ImportConfig)
