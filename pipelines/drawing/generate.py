"""Draw images: prompts x seeds through any diffusers pipeline, on Ray Data: `python pipelines/generate.py --model ...`.

Every image's start noise is a function of (seed, image index, caption), so two models drawn with the same flags start
from the same noise. Resumable: images that are there are not drawn again.

With --init-images each image starts from a given one (SDEdit): its shorter side is resized to the side that the model
draws (bilinear, as encode_latents.py does) and its centre is cut out. With --refiner SDXL's second model takes the last
steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra.base import begun, files, models, next_step, object_storage, one_writer, records
from infra.base.config_files import save_config
from infra.base.errors import UserError
from infra.base.result_files import FACTS
from infra.base.verifying import refusals
from pipelines.drawing import image_sets, start_images
from pipelines.drawing.generate_config import GenerateConfig, check_config
from pipelines.drawing.image_identity import image_identity
from pipelines.drawing.prompts import read_grouped
from pipelines.drawing.steps import check_steps
from pipelines.drawing.store_prompts import is_store, read_store
from pipelines.engine import block_rows, choose, resumable, shares
from pipelines.engine.jobs import Job, Step
from pipelines.latents import adapter_names, kinds, schemas, stated, store

MARKS = "images_done"  # folder of the marks of finished blocks, among the work files


def check_models(config: GenerateConfig) -> None:
    """Check by configurations alone, before weights are fetched, that the models are of kinds that fit the flags."""
    folder = models.Model(config.model, config.revision).folder(())
    stated.refuse(folder)
    check_steps(folder, config.sampling_steps)
    from pipelines.latents import weight_files  # which loads the libraries of networks

    weight_files.check_folder(folder, ())
    if config.max_tokens is not None:
        kinds.text_tokens(folder, config.max_tokens)
    if config.strength is not None:
        from pipelines.drawing.sampling import check_edits  # which loads pipelines

        check_edits(folder)
        kinds.native_resolution(folder)  # to which start images are resized; another kind is refused there
    if config.refiner is not None and config.refiner_start is not None:
        refiner = models.Model(config.refiner).folder((), "--refiner")
        weight_files.check_folder(refiner, (), "--refiner")
        from pipelines.drawing.sampling import check_refiner

        strength = config.strength or 1.0
        check_refiner(folder, refiner, config.sampling_steps, config.refiner_start, strength)


def main(config: GenerateConfig) -> None:
    """Draw images of prompts with a diffusers pipeline, the same start noise for every model."""
    config = check_config(config)
    output = files.resolve(config.output)
    object_storage.check("--output", output)
    given = files.resolve(config.prompts)
    prompts = (read_store(given) if is_store(given) else read_grouped(given, ()))[: config.limit]
    captions = [prompt.caption for prompt in prompts]
    lora = models.adapters_folder("--lora", config.lora) if config.lora else None
    if lora:
        adapter_names.refuse_other_kinds("--lora", lora)
    check_models(config)
    # These load the libraries of networks: what needs none is refused by now.
    from pipelines.drawing import sizes
    from pipelines.latents import identity as model_identity
    from pipelines.latents import weight_files

    model = models.Model(config.model, config.revision).pinned()
    refiner = models.Model(config.refiner).pinned() if config.refiner else None
    against = models.Model(config.negative_model).pinned() if config.negative_model else None
    for flag, one in (("--model", model), ("--refiner", refiner), ("--negative-model", against)):
        if one is not None:
            weight_files.check_weights(one.folder(flag=flag), weight_files.opened_parts(one.folder(flag=flag)), flag)
    if kinds.is_known(model.folder()):
        kinds.native_resolution(model.folder())  # refuses a side that the pipeline cannot draw
    if lora:
        from pipelines.latents.adapters import check_adapters

        check_adapters("--lora", lora, model.folder())
        say_precision(lora, config)
    if against is not None:
        from pipelines.drawing import negative

        negative.check_negative(model.folder(), against.folder(), config.guidance_scale)
    shapes = sizes.bucketed(prompts, model.folder(), config.prompts) if config.buckets else []
    wanted = image_sets.wanted_images(captions, config.images_per_prompt, config.seed, shapes)
    starts = start_images.digest(files.resolve(config.init_images), wanted) if config.init_images else None
    finished = files.join(output, image_sets.DONE)
    before = _identity_before(output)
    drawn_by = refiner.folder() if refiner else None
    led_away = against.folder() if against else None
    shapes_drawn = sizes.shapes_hash(shapes) if shapes else None
    identity = image_identity(config, model.folder(), captions, lora, drawn_by, starts, before, led_away, shapes_drawn)
    if before is not None:
        _refuse_others(output, before, identity)
    if any(model_identity.is_old(value) for value in identity["fingerprints"].values()):
        model_identity.say_once(output)

    def publish(images: Mapping[str, Mapping[str, Any]]) -> None:
        files.flush_below(files.join(output, image_sets.IMAGES))
        save_config(output, config)
        about = {"identity": identity, "images": wanted.num_rows, "config": asdict(config), "files": images}
        files.write_json(finished, about)

    drawn = resumable.finish(
        resumable.Pass(
            work=files.join(output, store.WORK),
            settings={"identity": identity},
            is_finished=lambda: files.exists(finished),
            lock=lambda: one_writer.writer_lock(output),
            refuse_others=lambda noted: _refuse_others(output, noted["identity"], identity),
            prepare=lambda: choose.connect("--samplers", config.samplers),
            run=lambda: choose.current().run(_job(config, model, refiner, against, output, wanted)),
            count=lambda: _describe_images(output, wanted.num_rows),
            publish=publish,
        )
    )
    if drawn is None:
        image_sets.image_files(output)  # refused here where they are no longer as they were drawn
        print(f"{output}: already finished, nothing to do", flush=True)
    from pipelines.drawing import gallery

    page = gallery.write_gallery(output, wanted, config)
    if page:
        print(f"look at {page}", flush=True)
    judges = () if config.model == GenerateConfig().model else ("--scorers", "pickscore", "--weights", "published")
    then = next_step.command("pipelines/score.py", "--images", output, *judges)
    print(next_step.last_line(output, f"{wanted.num_rows:,} images", then), flush=True)


def say_precision(lora: Path, config: GenerateConfig) -> None:
    """Say where adapters were trained beside packed weights: what is drawn is not quite the policy of that run."""
    facts = lora / FACTS
    trained = files.read_json(str(facts)).get("config", {}) if facts.is_file() else {}
    packed = trained.get("policy", {}).get("base_precision")
    if packed in ("fp8", "nf4"):
        print(
            f"--lora {config.lora}: trained beside weights in {packed}; the images are drawn with the model's own "
            f"weights in {config.dtype}, so they differ a little from those that the run drew of itself",
            flush=True,
        )


def verify(config: GenerateConfig) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with the images drawn."""
    output = files.resolve(config.output)
    refused = list(refusals(partial(image_sets.read_manifest, output)))
    yield from refused or image_sets.problems(output)


def _identity_before(output: str) -> dict[str, Any] | None:
    """Read what decides the images of a folder, finished or begun; None where there are none."""
    for name in (image_sets.DONE, f"{store.WORK}/{resumable.NOTED}"):
        path = files.join(output, name)
        if files.exists(path):
            return records.read_record(path, ("identity",))["identity"]
    return None


def _refuse_others(output: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    named = begun.by_full_name(before)
    begun.refuse_other_settings(output, named, begun.by_full_name(now), "give another --output", exact=True)


def _describe_images(output: str, wanted: int) -> dict[str, dict[str, Any]]:
    """Describe the files of the images drawn, as image_sets.describe_images does.

    Raises:
        UserError: if they are not as many images as wanted, or other hands changed them.
    """
    folder = files.join(output, image_sets.IMAGES)
    block_rows.refuse_altered(folder, files.join(output, store.WORK, MARKS), block_rows.digests_below(folder))
    described = image_sets.describe_images(output)
    images = sum(about["rows"] for about in described.values())
    if images != wanted:
        raise UserError(f"{output}: {images} images for {wanted} wanted; delete the folder and run again")
    return described


def _job(
    config: GenerateConfig,
    model: models.Model,
    refiner: models.Model | None,
    against: models.Model | None,
    output: str,
    wanted: pa.Table,
) -> Job:
    from pipelines.drawing.draw_images import DrawImages

    folder = files.join(output, store.WORK, "wanted")
    columns = wanted.column_names
    if config.init_images:
        source = start_images.write(files.resolve(config.init_images), wanted, folder)
        columns = [*columns, start_images.COLUMN]
    else:
        source = [files.join(folder, "part-00000.parquet")]
        together = [(side, "ascending") for side in schemas.SIDES if side in columns]  # a pass has one shape
        files.write_table(source[0], wanted.sort_by(together) if together else wanted)
    share = shares.share(choose.current().device_count(), config.samplers)
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
        "negative_model": against,
    }
    return Job(
        source=source,
        columns=columns,
        steps=[
            Step(
                function=DrawImages,
                arguments=arguments,
                batch_size=config.batch_size,
                actors=share.copies,
                gpus=share.gpus,
            )
        ],
        output=files.join(output, image_sets.IMAGES),
        checkpoint=files.join(output, store.WORK, MARKS),
        id_column="image_id",
        row_ids=image_sets.image_ids,
        rows_per_block=4 * config.batch_size,
        name="images",
        rows=wanted.num_rows,
    )
