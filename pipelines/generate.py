"""Draw images: prompts x seeds through any diffusers pipeline, on Ray Data: `python pipelines/generate.py --model ...`.

Every image's start noise is a function of (seed, image index, caption), so two models drawn with the same flags start
from the same noise. Resumable: images that are there are not drawn again.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from infra import cli, files, models
from infra.errors import UserError
from pipelines import engine, pairs, sampling, store

DONE = "manifest.json"


@dataclass(frozen=True)
class GenerateConfig:
    """Flags of the generator."""

    model: str = "infra/world/model"
    """A diffusers folder or Hub name."""
    revision: str | None = None
    """Revision of a Hub name."""
    prompts: str = "infra/world/prompts/test.txt"
    """Captions: text, one a line, or a .tsv, .csv, .jsonl or .parquet file with a column prompt or caption."""
    limit: int | None = None
    """Take the first so many captions only."""
    output: str = "runs/images"
    """Folder to write, local or s3://."""
    images_per_prompt: int = 1
    seed: int = 0
    sampling_steps: int = 20
    guidance_scale: float = 3.0
    dtype: str = "float32"
    """Of the pipeline's arithmetic: float32, bfloat16 or float16."""

    samplers: int = 0
    """Copies of the pipeline; 0: one per GPU, or one where there is none."""
    batch_size: int = 32
    """Images drawn at once, per copy."""


SPEED_FLAGS = ("samplers", "batch_size", "output")


class DrawImages:
    """Step: captions and seeds to PNG images."""

    def __init__(self, model: Path, steps: int, guidance_scale: float, dtype: str) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.pipeline = sampling.load_pipeline(model, getattr(torch, dtype), device)
        self.steps, self.guidance_scale = steps, guidance_scale

    def __call__(self, wanted: pa.Table) -> pa.Table:
        """Add the column image, PNG bytes, to image_id, caption, image_index and image_seed."""
        images = sampling.draw_images(
            self.pipeline,
            wanted["caption"].to_pylist(),
            wanted["image_seed"].to_pylist(),
            self.steps,
            self.guidance_scale,
        )
        contents = []
        for image in images:
            buffer = io.BytesIO()
            image.save(buffer, format="PNG")
            contents.append(buffer.getvalue())
        return wanted.append_column("image", pa.array(contents, pa.binary()))


def read_prompts(path: str) -> list[str]:
    """Read captions from text, TSV, CSV, JSONL or Parquet.

    Raises:
        UserError: if the file is missing, has no such column, or a caption in it is missing.
    """
    if not files.exists(path):
        raise UserError(f"--prompts {path}: no such file")
    content = files.read_bytes(path)
    suffix = path.rsplit(".", 1)[-1].lower()
    if suffix not in ("tsv", "csv", "jsonl", "parquet"):
        captions: Sequence[Any] = [line for line in content.decode().splitlines() if line.strip()]
    else:
        table = _read_table(content, suffix)
        names = {name.lower(): name for name in table.column_names}
        column = names.get("prompt") or names.get("caption")
        if column is None:
            raise UserError(f"--prompts {path}: no column prompt or caption; it has {', '.join(table.column_names)}")
        captions = table[column].to_pylist()
    for row, caption in enumerate(captions):
        if refusal := pairs.check_caption(caption):
            raise UserError(f"--prompts {path}: row {row}: {refusal.reason}")
    if not captions:
        raise UserError(f"--prompts {path}: no captions in it")
    return list(captions)


def _read_table(content: bytes, suffix: str) -> pa.Table:
    import pyarrow.csv
    import pyarrow.json

    if suffix == "parquet":
        return pq.read_table(pa.BufferReader(content))
    if suffix == "jsonl":
        return pyarrow.json.read_json(pa.BufferReader(content))
    # A TSV's quotes are part of its text; a CSV's are not.
    options = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False) if suffix == "tsv" else None
    return pyarrow.csv.read_csv(pa.BufferReader(content), parse_options=options)


def wanted_images(captions: Sequence[str], per_prompt: int, seed: int) -> pa.Table:
    """List the images to draw: image_id, caption, image_index (running per repeated caption), image_seed."""
    rows, used = [], dict.fromkeys(captions, 0)
    for caption in captions:
        for _ in range(per_prompt):
            index = used[caption]
            used[caption] += 1
            number = sampling.image_seed(seed, index, caption)
            key = pairs.hash64(b"image_id", caption.encode(), str(index).encode())
            rows.append({"image_id": key, "caption": caption, "image_index": index, "image_seed": number})
    return pa.Table.from_pylist(rows, schema=_WANTED)


_WANTED = pa.schema(
    [("image_id", pa.int64()), ("caption", pa.string()), ("image_index", pa.int32()), ("image_seed", pa.int64())]
)


def image_ids(table: pa.Table) -> npt.NDArray[np.int64]:
    """Return the ids of a table of images."""
    return table["image_id"].to_numpy()


def main(config: GenerateConfig) -> None:
    """Draw images of prompts with a diffusers pipeline, the same start noise for every model."""
    output = files.resolve(config.output)
    folder = models.local_folder(config.model, config.revision)
    identity = {k: v for k, v in asdict(config).items() if k not in SPEED_FLAGS}
    identity["fingerprints"] = {
        part.parent.name: models.fingerprint(folder, part.parent.name)
        for part in sorted(folder.glob("*/*.safetensors"))
    }
    finished = files.join(output, DONE)
    begun = files.join(output, store.WORK, "config.json")
    for path in (finished, begun):
        if files.exists(path) and (before := files.read_json(path)["identity"]) != identity:
            told = [name for name in identity if before.get(name) != identity[name]]
            raise UserError(f"{output} was drawn with another {', '.join(told)}; give another --output")
    if files.exists(finished):
        print(f"{output}: already finished, nothing to do", flush=True)
        return
    wanted = wanted_images(
        read_prompts(files.resolve(config.prompts))[: config.limit], config.images_per_prompt, config.seed
    )
    with store.writer_lock(output):
        files.write_json(begun, {"identity": identity})
        engine.connect()
        _draw(config, folder, output, wanted)
        rows = sum(engine.map_files(_count_rows, files.list_files(files.join(output, "images"), ".parquet")))
        if rows != wanted.num_rows:
            raise UserError(f"{output}: {rows} images for {wanted.num_rows} wanted; delete the folder and run again")
        files.write_json(finished, {"identity": identity, "images": rows, "config": asdict(config)})
        files.remove(files.join(output, store.WORK))
    print(f"{output}: {wanted.num_rows} images", flush=True)


def _count_rows(path: str) -> int:
    filesystem, inner = files.open_filesystem(path)
    return pq.read_metadata(inner, filesystem=filesystem).num_rows


def _draw(config: GenerateConfig, folder: Path, output: str, wanted: pa.Table) -> None:
    source = files.join(output, store.WORK, "wanted.parquet")
    files.write_table(source, wanted)
    copies = config.samplers or max(1, engine.device_count())
    arguments = {
        "model": folder,
        "steps": config.sampling_steps,
        "guidance_scale": config.guidance_scale,
        "dtype": config.dtype,
    }
    engine.run(
        engine.Job(
            source=[source],
            columns=wanted.column_names,
            steps=[
                engine.Step(
                    DrawImages,
                    arguments,
                    config.batch_size,
                    copies,
                    cpus=0.25,
                    gpus=1.0 if engine.device_count() else 0.0,
                )
            ],
            output=files.join(output, "images"),
            checkpoint=files.join(output, store.WORK, "images_done"),
            id_column="image_id",
            row_ids=image_ids,
            rows_per_block=4 * config.batch_size,
            name="images",
            rows=wanted.num_rows,
        )
    )


def read_images(folder: str) -> pa.Table:
    """Read a finished folder of images in the order of its captions' ids.

    Raises:
        UserError: if it is not finished.
    """
    if not files.exists(files.join(folder, DONE)):
        raise UserError(f"{folder}: no finished images here; run generate.py")
    tables = []
    for path in files.list_files(files.join(folder, "images"), ".parquet"):
        filesystem, inner = files.open_filesystem(path)
        tables.append(pq.read_table(inner, filesystem=filesystem, partitioning=None))
    return pa.concat_tables(tables).sort_by("image_id")


if __name__ == "__main__":
    cli.run(main, GenerateConfig)
