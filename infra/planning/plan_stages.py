"""The stages of a run as work for its nodes: what each unit needs of GPU, CPU, disk and network.

The two dry runs count the arithmetic (infra/base/counting.py); the plan assumes the rates (infra/planning/measured.py).
A batch stage reads, decodes, computes and writes at once, so the slowest of these sets its pace. A training step also
takes the part of the exchange of gradients that the last backward pass does not hide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from infra.planning.fleet import Copies, Training
from infra.planning.measured import Assumptions
from infra.planning.plan_counts import Counted
from infra.planning.plan_flags import encode_preset
from infra.planning.pool import Pool
from labelers.labels import relabel_config
from pipelines.drawing import generate_config
from pipelines.latents import encode_passes
from pipelines.latents.addresses import index_bytes
from training.reference import reference_config
from training.run import plan as training_plan
from training.settings.config import TrainConfig
from training.settings.presets import PRESETS

StageName = Literal["encode", "captions", "relabel", "reference", "train", "evaluate"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage on its nodes."""

    name: StageName
    pool: Pool
    work: Copies | Training
    needs: Mapping[str, float]  # by resource: seconds of a node for a unit, or of all nodes for a step
    busy: int  # nodes that have work; the others wait, and cost as much
    staging: float = 0.0  # seconds for which each node first copies the store's index

    @property
    def bottleneck(self) -> str:
        """Name the scarcest resource and the next one."""
        (first, most), *rest = sorted(self.needs.items(), key=lambda item: -item[1])
        return f"{first} (next: {rest[0][0]}, {rest[0][1] / most:.1%} of that)" if rest else first


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The amount of work of a run."""

    preset: str
    pairs: int
    cached: bool  # whether the reference stage computes the reference errors ahead
    steps: int
    every: int  # steps between checkpoints
    captions_judged: int
    validation_images: int  # at each checkpoint

    @property
    def training(self) -> TrainConfig:
        """Return the trainer's settings."""
        preset = PRESETS[self.preset]
        data = replace(preset.data, reference="base" if self.cached else None)
        return replace(preset, steps=self.steps, checkpoint_every=self.every, data=data)

    @property
    def draws(self) -> int:
        """Return how many epochs begin; each visits a pair at another draw."""
        return 1 + (self.steps - 1) // (self.pairs // self.training.data.global_batch)


def encode(sizes: Sizes, counted: Counted, pool: Pool, assumed: Assumptions) -> Stage:
    """Plan the encoder's first pass: raw rows to latents."""
    settings = counted.encode
    speed = assumed.speed(pool.card, "encoder", settings.dtype)
    needs = _raw_rows(pool, assumed) | {
        "GPU, VAE": counted.stored.images * counted.networks.image / (speed * pool.gpus),
        "S3, writing": counted.stored.pair_bytes / _bytes(assumed["bandwidth"]),
    }
    return _copies(
        "encode", sizes.pairs, needs, pool, settings.rows_per_file, assumed["encode_ratio"], assumed["startup"]
    )


def captions(counted: Counted, pool: Pool, assumed: Assumptions) -> Stage:
    """Plan the encoder's second pass: as many copies as the first pass has encode each caption once."""
    settings = counted.encode
    speed = assumed.speed(pool.card, "encoder", settings.dtype)
    needs = {
        "GPU, text encoders": sum(counted.networks.captions.values()) / (speed * pool.gpus),
        "S3, writing": counted.caption_bytes / _bytes(assumed["bandwidth"]),
    }
    block = encode_passes.rows_per_block(8 * settings.rows_per_file, counted.caption_bytes, encode_passes.CAPTION_BYTES)
    units = counted.manifest.counts.prompts + 1
    return _copies("captions", units, needs, pool, block, assumed["encode_ratio"], assumed["startup"])


def relabel_pairs(sizes: Sizes, counted: Counted, pool: Pool, assumed: Assumptions) -> Stage:
    """Plan the labels of PickScore; its towers run in float32, on two images and a caption a pair."""
    image, caption = counted.scored
    speed = relabel_config.PRESETS["published"].speed
    work = 2 * image + caption
    needs = _raw_rows(pool, assumed) | {
        "GPU, scorer": work / (assumed.speed(pool.card, "encoder", "float32") * pool.gpus),
    }
    return _copies(
        "relabel", sizes.pairs, needs, pool, speed.rows_per_file, assumed["relabel_ratio"], assumed["startup"]
    )


def reference(sizes: Sizes, counted: Counted, pool: Pool, assumed: Assumptions) -> Stage:
    """Plan the reference errors of all draws of all pairs."""
    speed = assumed.speed(pool.card, "batched", counted.training.precision)
    needs = {
        "GPU, reference": 2 * counted.network.forward / (speed * pool.gpus),
        "CPU, loading": _pair_bytes(counted) / (_bytes(assumed["loader_rate"]) * pool.gpus),
        "S3, rows": _pair_bytes(counted) / _bytes(assumed["bandwidth"]),
    }
    block = reference_config.PRESETS[sizes.preset].rows_per_file
    staging = _staging(counted, assumed)
    units = sizes.draws * sizes.pairs
    return _copies("reference", units, needs, pool, block, assumed["encode_ratio"], assumed["startup"] + staging)


def train(sizes: Sizes, counted: Counted, pool: Pool, assumed: Assumptions, least: int) -> Stage:
    """Plan the training.

    Args:
        least: fewest nodes that it goes on with.
    """
    config = sizes.training
    network = counted.network
    laid_out = training_plan.layout(config)
    mode = "batched" if laid_out.reference else "cached"
    speed = assumed.speed(pool.card, mode, config.precision)
    pair = sum(work for _, work in training_plan.pair_work(laid_out, network.forward))
    backward = (2 if laid_out.adapters else 4) * network.forward / speed  # of a pair
    computing = "GPU, policy and reference" if laid_out.reference else "GPU, policy"
    size = checkpoint_bytes(laid_out, network)

    def parts(nodes: int) -> dict[str, float]:
        workers = nodes * pool.gpus
        share = math.ceil(config.data.global_batch / workers)
        exchange = 2 * (workers - 1) / workers * training_plan.FLOAT32 * network.trained / _bytes(assumed["exchange"])
        return {
            computing: share * pair / (speed * assumed["train_ratio"]),
            "CPU, loading": share * _pair_bytes(counted) / _bytes(assumed["loader_rate"]),
            "S3, rows": share * pool.gpus * _pair_bytes(counted) / _bytes(assumed["bandwidth"]),
            "network, gradients": max(0.0, exchange - backward * min(share, config.data.micro_batch)),
        }

    def step(nodes: int) -> float:
        *meanwhile, exchange = parts(nodes).values()
        return max(meanwhile) + exchange

    write = size / _bytes(assumed["write_rate"])
    drawn = 2 * config.validation.sampling_steps * network.forward * sizes.validation_images
    work = Training(
        steps=sizes.steps,
        every=sizes.every,
        step=step,
        copy=size / _bytes(assumed["copy_rate"]),
        write=write,
        judge=drawn / (speed * pool.accelerators),
        restart=assumed["restart"] + write,  # reading and checking a checkpoint takes about as long as writing it
        least=least,
    )
    needs = parts(pool.nodes) | {"disk, checkpoints": write / sizes.every}
    staging = _staging(counted, assumed)
    return Stage(name="train", pool=pool, work=work, needs=needs, busy=pool.nodes, staging=staging)


def evaluate(sizes: Sizes, counted: Counted, pool: Pool, assumed: Assumptions) -> Stage:
    """Plan the evaluation: drawing and scoring the images of base and policy."""
    config = generate_config.PRESETS[encode_preset(sizes.preset)]
    passes = 2 if config.guidance_scale > 1 else 1
    speed = assumed.speed(pool.card, "encoder", config.dtype)
    drawn = config.sampling_steps * passes * counted.network.forward + counted.decoded_image
    drawn += passes * sum(counted.networks.captions.values())
    needs = {
        "GPU, sampler": drawn / (speed * pool.gpus),
        "GPU, scorer": sum(counted.scored) / (assumed.speed(pool.card, "encoder", "float32") * pool.gpus),
    }
    images = 2 * sizes.captions_judged
    block = 4 * config.batch_size  # 4 batches are a block of pipelines/generate.py
    one_after_the_other = {"GPU, sampler and scorer": sum(needs.values())}
    stage = _copies("evaluate", images, one_after_the_other, pool, block, assumed["encode_ratio"], assumed["startup"])
    return replace(stage, needs=needs)


def checkpoint_bytes(laid_out: training_plan.Layout, network: training_plan.Network) -> float:
    """Return the bytes of a checkpoint: trained weights, their moments, and their average if there is one."""
    parts = training_plan.memory(replace(laid_out, shards=1), network)
    kept = sum(size for name, size in parts if name.startswith(("optimizer", "average")))
    return training_plan.FLOAT32 * network.trained + kept


def _raw_rows(pool: Pool, assumed: Assumptions) -> dict[str, float]:
    """Return the seconds in which a node reads and decodes a kept pair; it reads dropped rows too."""
    return {
        "S3, reading": assumed["rows_per_pair"] * assumed["row_bytes"] / _bytes(assumed["bandwidth"]),
        "CPU, decoding": 2 * assumed["image"] / (assumed["decode_rate"] * assumed["cpus"] * pool.gpus),
    }


def _copies(
    name: StageName, units: float, needs: Mapping[str, float], pool: Pool, block: int, ratio: float, startup: float
) -> Stage:
    work = Copies(units, ratio / max(needs.values()), float(block * pool.gpus), startup)
    return Stage(name=name, pool=pool, work=work, needs=needs, busy=pool.nodes)


def _pair_bytes(counted: Counted) -> float:
    return counted.stored.pair_bytes + counted.caption_bytes


def _staging(counted: Counted, assumed: Assumptions) -> float:
    return index_bytes(counted.manifest) / _bytes(assumed["bandwidth"])


def _bytes(gigabytes: float) -> float:
    return gigabytes * 1e9


STAGES: dict[StageName, Callable[[Sizes, Counted, Pool, Assumptions], Stage]] = {
    "encode": encode,
    "relabel": relabel_pairs,
    "reference": reference,
    "evaluate": evaluate,
}
