"""Draw images: prompts x seeds through any diffusers pipeline, on Ray Data: `python pipelines/generate.py --model ...`.

Every image's start noise is a function of (seed, image index, caption), so two models drawn with the same flags start
from the same noise. Resumable: images that are there are not drawn again.

With --init-images each image starts from a given one (SDEdit): its shorter side is resized to the side that the model
draws (bilinear, as encode_latents.py does) and its centre is cut out. With --refiner SDXL's second model takes the last
steps.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pyarrow as pa
import torch
from PIL import Image

from infra.base import files, models, object_storage, tables
from infra.base.config_files import save_config
from infra.base.errors import UserError
from pipelines.drawing import image_sets, sampling, start_images
from pipelines.drawing.generate_config import GenerateConfig, check_config, image_identity
from pipelines.drawing.prompts import read_prompts
from pipelines.engine import on_ray
from pipelines.engine.jobs import Job, Step
from pipelines.latents import kinds, store, weight_files
from pipelines.latents.adapters import check_adapters
from pipelines.latents.identity import is_old, say_once
from pipelines.raw.decode import decode_image


class DrawImages:
    """Step: captions and seeds, and start images where there is a strength, to PNG images."""

    def __init__(
        self,
        model: models.Model,
        steps: int,
        guidance_scale: float,
        dtype: str,
        max_tokens: int | None = None,
        lora: str | None = None,
        strength: float | None = None,
        refiner: models.Model | None = None,
        refiner_start: float | None = None,
    ) -> None:
        device, kind, folder = "cuda" if torch.cuda.is_available() else "cpu", getattr(torch, dtype), model.folder()
        adapters = models.adapters_folder("--lora", lora) if lora else None
        self.pipeline = sampling.load_pipeline(folder, kind, device, max_tokens, adapters, edits=strength is not None)
        self.steps, self.guidance_scale, self.max_tokens, self.strength = steps, guidance_scale, max_tokens, strength
        self.side = kinds.native_resolution(folder) if strength is not None else 0
        self.refiner = None
        if refiner and refiner_start:
            loaded = sampling.load_pipeline(refiner.folder(flag="--refiner"), kind, device)
            self.refiner = sampling.Refiner(loaded, refiner_start)

    def __call__(self, wanted: pa.Table) -> pa.Table:
        """Add the column image, PNG bytes, to image_id, caption, image_index and image_seed; start images go."""
        edit = None
        if self.strength is not None:
            starts = wanted[start_images.COLUMN].to_pylist()
            pictures = [Image.fromarray(decode_image(content, self.side)) for content in starts]
            edit, wanted = sampling.Edit(pictures, self.strength), wanted.drop_columns([start_images.COLUMN])
        images = sampling.draw_images(
            self.pipeline,
            wanted["caption"].to_pylist(),
            wanted["image_seed"].to_pylist(),
            self.steps,
            self.guidance_scale,
            self.max_tokens,
            edit,
            self.refiner,
        )
        return image_sets.with_images(wanted, images)


def check_models(config: GenerateConfig) -> None:
    """Check by configurations alone, before weights are fetched, that the models are of kinds that fit the flags."""
    folder = models.Model(config.model, config.revision).folder(())
    weight_files.check_folder(folder, ())
    sampling.check_steps(folder, config.sampling_steps)
    if config.max_tokens is not None:
        kinds.t5_tokens(folder, config.max_tokens)
    if config.strength is not None:
        kinds.native_resolution(folder)  # to which start images are resized; another kind is refused there
    if config.refiner is not None and config.refiner_start is not None:
        refiner = models.Model(config.refiner).folder((), "--refiner")
        weight_files.check_folder(refiner, (), "--refiner")
        strength = config.strength or 1.0
        sampling.check_refiner(folder, refiner, config.sampling_steps, config.refiner_start, strength)


def main(config: GenerateConfig, run: Callable[[Job], None] | None = None) -> None:
    """Draw images of prompts with a diffusers pipeline, the same start noise for every model.

    Args:
        run: what runs the job, in Ray Data's place.
    """
    config = check_config(config)
    output = files.resolve(config.output)
    object_storage.check("--output", output)
    captions = read_prompts(files.resolve(config.prompts))[: config.limit]
    check_models(config)
    model = models.Model(config.model, config.revision).pinned()
    refiner = models.Model(config.refiner).pinned() if config.refiner else None
    for flag, one in (("--model", model), ("--refiner", refiner)):
        if one is not None:
            weight_files.check_weights(one.folder(flag=flag), weight_files.opened_parts(one.folder(flag=flag)), flag)
    lora = models.adapters_folder("--lora", config.lora) if config.lora else None
    if lora:
        check_adapters("--lora", lora, model.folder())
    wanted = image_sets.wanted_images(captions, config.images_per_prompt, config.seed)
    starts = start_images.digest(files.resolve(config.init_images), wanted) if config.init_images else None
    finished = files.join(output, image_sets.DONE)
    begun = files.join(output, store.WORK, "config.json")
    before = next((files.read_json(path)["identity"] for path in (finished, begun) if files.exists(path)), None)
    drawn_by = refiner.folder() if refiner else None
    identity = image_identity(config, model.folder(), captions, lora, drawn_by, starts, before)
    if before is not None and before != identity:
        differing = [name for name in before | identity if before.get(name) != identity.get(name)]
        raise UserError(f"{output} was drawn with other settings ({', '.join(differing)}); give another --output")
    if any(is_old(value) for value in identity["fingerprints"].values()):
        say_once(output)
    if files.exists(finished):
        print(f"{output}: already finished, nothing to do", flush=True)
        return
    with store.writer_lock(output) as still_held:
        files.write_json(begun, {"identity": identity})
        on_ray.connect()
        (run or on_ray.run)(_job(config, model, refiner, output, wanted))
        with ThreadPoolExecutor() as pool:  # on S3 each file is a round trip
            rows = sum(pool.map(tables.count_rows, files.list_files(files.join(output, "images"), ".parquet")))
        if rows != wanted.num_rows:
            raise UserError(f"{output}: {rows} images for {wanted.num_rows} wanted; delete the folder and run again")
        still_held()
        files.flush_below(files.join(output, "images"))
        save_config(output, config)
        files.write_json(finished, {"identity": identity, "images": rows, "config": asdict(config)})
        files.remove(files.join(output, store.WORK))
    print(f"{output}: {wanted.num_rows} images", flush=True)


def _job(
    config: GenerateConfig,
    model: models.Model,
    refiner: models.Model | None,
    output: str,
    wanted: pa.Table,
) -> Job:
    folder, columns = files.join(output, store.WORK, "wanted"), wanted.column_names
    if config.init_images:
        source = start_images.write(files.resolve(config.init_images), wanted, folder)
        columns = [*columns, start_images.COLUMN]
    else:
        source = [files.join(folder, "part-00000.parquet")]
        files.write_table(source[0], wanted)
    copies = config.samplers or max(1, on_ray.device_count())
    arguments = {
        "model": model,
        "steps": config.sampling_steps,
        "guidance_scale": config.guidance_scale,
        "dtype": config.dtype,
        "max_tokens": config.max_tokens,
        "lora": files.resolve(config.lora) if config.lora else None,
        "strength": config.strength,
        "refiner": refiner,
        "refiner_start": config.refiner_start,
    }
    return Job(
        source=source,
        columns=columns,
        steps=[
            Step(
                DrawImages,
                arguments,
                config.batch_size,
                copies,
                cpus=0.25,
                gpus=1.0 if on_ray.device_count() else 0.0,
            )
        ],
        output=files.join(output, "images"),
        checkpoint=files.join(output, store.WORK, "images_done"),
        id_column="image_id",
        row_ids=image_sets.image_ids,
        rows_per_block=4 * config.batch_size,
        name="images",
        rows=wanted.num_rows,
    )
