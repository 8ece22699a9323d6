"""The stages of a run as work for a fleet: what each unit needs of GPU, CPU, disk and network, and which is scarcest.

Arithmetic is counted (infra/base/counting.py, through the two dry runs' own counts), rates are a plan's assumptions
(infra/planning/measured.py). Within a batch stage reading, decoding, computing and writing go on at once, so the
slowest of them sets its pace; of a training step what the exchange of gradients cannot hide behind the last backward
pass is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from infra.base.accelerators import Name
from infra.planning.fleet import Copies, Training
from infra.planning.measured import Assumptions
from infra.planning.plan_counts import Counted, encode_preset
from labelers.labels import relabel
from pipelines.drawing import generate_config
from pipelines.latents import encode_latents
from training.data.staging import staged_bytes
from training.reference import encode_reference
from training.run import plan as training_plan
from training.settings.config import TrainConfig
from training.settings.presets import PRESETS

StageName = Literal["encode", "captions", "relabel", "reference", "train", "evaluate"]


@dataclass(frozen=True)
class Pool:
    """The nodes that a stage has."""

    nodes: int
    gpus: int  # of each
    card: Name

    @property
    def accelerators(self) -> int:
        """Return how many accelerators there are."""
        return self.nodes * self.gpus

    def __str__(self) -> str:
        return f"{self.nodes} x {self.gpus} {self.card}" if self.gpus > 1 else f"{self.nodes} {self.card}"


@dataclass(frozen=True)
class Stage:
    """One stage on its nodes."""

    name: StageName
    pool: Pool
    work: Copies | Training
    needs: Mapping[str, float]  # seconds by what is needed: of a node for a unit, or of the group for a step
    busy: int  # nodes that have work; the others wait, and are paid
    staging: float = 0.0  # seconds that each node copies the store before

    @property
    def bottleneck(self) -> str:
        """Name what is scarcest, and what comes next."""
        (first, most), *rest = sorted(self.needs.items(), key=lambda item: -item[1])
        return f"{first} (next: {rest[0][0]}, {rest[0][1] / most:.1%} of that)" if rest else first


@dataclass(frozen=True)
class Sizes:
    """How much there is to do."""

    preset: str
    pairs: int
    cached: bool  # the reference's errors are computed ahead
    steps: int
    every: int  # steps between checkpoints
    captions_judged: int
    validation_images: int  # at each checkpoint

    @property
    def training(self) -> TrainConfig:
        """Return the trainer's settings."""
        told = PRESETS[self.preset]
        data = replace(told.data, reference="base" if self.cached else None)
        return replace(told, steps=self.steps, checkpoint_every=self.every, data=data)

    @property
    def draws(self) -> int:
        """Return how many epochs are begun, each of which visits a pair at another draw."""
        return 1 + (self.steps - 1) // (self.pairs // self.training.data.global_batch)


def encode(sizes: Sizes, counted: Counted, pool: Pool, told: Assumptions) -> Stage:
    """Plan the encoder's first pass: raw rows to latents."""
    settings, speed = counted.encode, told.speed(pool.card, "encoder", counted.encode.dtype)
    needs = _raw_rows(pool, told) | {
        "GPU, VAE": counted.stored.images * counted.networks.image / (speed * pool.gpus),
        "S3, writing": counted.stored.pair_bytes / _bytes(told["bandwidth"]),
    }
    return _copies("encode", sizes.pairs, needs, pool, settings.rows_per_file, told["encode_ratio"], told["startup"])


def captions(counted: Counted, pool: Pool, told: Assumptions) -> Stage:
    """Plan the encoder's second pass, by one copy: each caption once."""
    settings, speed = counted.encode, told.speed(pool.card, "encoder", counted.encode.dtype)
    needs = {
        "GPU, text encoders": sum(counted.networks.captions.values()) / speed,
        "S3, writing": counted.caption_bytes / _bytes(told["bandwidth"]),
    }
    block = max(1, min(8 * settings.rows_per_file, encode_latents.CAPTION_BYTES // counted.caption_bytes))
    one = replace(pool, gpus=1)
    units = counted.manifest.counts.prompts + 1
    stage = _copies("captions", units, needs, one, block, told["encode_ratio"], told["startup"])
    return replace(stage, pool=pool, busy=1)


def relabel_pairs(sizes: Sizes, counted: Counted, pool: Pool, told: Assumptions) -> Stage:
    """Plan the labels of PickScore: its towers run in float32, and each pair brings its caption."""
    image, caption = counted.scored
    speed = relabel.PRESETS["published"].speed
    work = 2 * image + caption
    needs = _raw_rows(pool, told) | {
        "GPU, scorer": work / (told.speed(pool.card, "encoder", "float32") * pool.gpus),
    }
    return _copies("relabel", sizes.pairs, needs, pool, speed.rows_per_file, told["relabel_ratio"], told["startup"])


def reference(sizes: Sizes, counted: Counted, pool: Pool, told: Assumptions) -> Stage:
    """Plan the reference's errors of all draws of all pairs."""
    speed = told.speed(pool.card, "batched", counted.training.precision)
    needs = {
        "GPU, reference": 2 * counted.network.forward / (speed * pool.gpus),
        "CPU, loading": _pair_bytes(counted) / (_bytes(told["loader_rate"]) * pool.gpus),
    }
    block, staging = encode_reference.PRESETS[sizes.preset].rows_per_file, _staging(counted, told)
    units = sizes.draws * sizes.pairs
    return _copies("reference", units, needs, pool, block, told["encode_ratio"], told["startup"] + staging)


def train(sizes: Sizes, counted: Counted, pool: Pool, told: Assumptions, least: int) -> Stage:
    """Plan the training; least: nodes that it goes on with."""
    config, network = sizes.training, counted.network
    laid_out = training_plan.layout(config)
    mode = "batched" if laid_out.reference else "cached"
    speed = told.speed(pool.card, mode, config.precision)
    pair = sum(work for _, work in training_plan.pair_work(laid_out, network.forward))
    backward = (2 if laid_out.adapters else 4) * network.forward / speed  # of a pair
    computing = "GPU, policy and reference" if laid_out.reference else "GPU, policy"
    size = checkpoint_bytes(laid_out, network)

    def parts(nodes: int) -> dict[str, float]:
        workers = nodes * pool.gpus
        share = math.ceil(config.data.global_batch / workers)
        exchange = 2 * (workers - 1) / workers * training_plan.FLOAT32 * network.trained / _bytes(told["exchange"])
        return {
            computing: share * pair / (speed * told["train_ratio"]),
            "CPU, loading": share * _pair_bytes(counted) / _bytes(told["loader_rate"]),
            "network, gradients": max(0.0, exchange - backward * min(share, config.data.micro_batch)),
        }

    def step(nodes: int) -> float:
        compute, loading, rest = parts(nodes).values()
        return max(compute, loading) + rest

    write = size / _bytes(told["write_rate"])
    drawn = 2 * config.validation.sampling_steps * network.forward * sizes.validation_images
    work = Training(
        steps=sizes.steps,
        every=sizes.every,
        step=step,
        copy=size / _bytes(told["copy_rate"]),
        write=write,
        judge=drawn / (speed * pool.accelerators),
        restart=told["restart"] + write,  # a checkpoint is read and its hashes checked about as fast as written
        least=least,
    )
    needs = parts(pool.nodes) | {"disk, checkpoints": write / sizes.every}
    return Stage("train", pool, work, needs, pool.nodes, _staging(counted, told))


def evaluate(sizes: Sizes, counted: Counted, pool: Pool, told: Assumptions) -> Stage:
    """Plan the images of base and policy, drawn and scored."""
    config = generate_config.PRESETS[encode_preset(sizes.preset)]
    passes = 2 if config.guidance_scale > 1 else 1
    speed = told.speed(pool.card, "encoder", config.dtype)
    drawn = config.sampling_steps * passes * counted.network.forward + counted.decoded_image
    drawn += passes * sum(counted.networks.captions.values())
    needs = {
        "GPU, sampler": drawn / (speed * pool.gpus),
        "GPU, scorer": sum(counted.scored) / (told.speed(pool.card, "encoder", "float32") * pool.gpus),
    }
    images, block = 2 * sizes.captions_judged, 4 * config.batch_size  # 4: pipelines/generate.py's rows per block
    one_after_the_other = {"GPU, sampler and scorer": sum(needs.values())}
    stage = _copies("evaluate", images, one_after_the_other, pool, block, told["encode_ratio"], told["startup"])
    return replace(stage, needs=needs)


def checkpoint_bytes(laid_out: training_plan.Layout, network: training_plan.Network) -> float:
    """Return the bytes of a checkpoint: trained weights, their moments, and their average if one is kept."""
    parts = training_plan.memory(replace(laid_out, shards=1), network)
    kept = sum(size for name, size in parts if name.startswith(("optimizer", "average")))
    return training_plan.FLOAT32 * network.trained + kept


def _raw_rows(pool: Pool, told: Assumptions) -> dict[str, float]:
    """Return what reading and decoding a kept pair need, of a node; rows that are dropped are read too."""
    return {
        "S3, reading": told["rows_per_pair"] * told["row_bytes"] / _bytes(told["bandwidth"]),
        "CPU, decoding": 2 * told["image"] / (told["decode_rate"] * told["cpus"] * pool.gpus),
    }


def _copies(
    name: StageName, units: float, needs: Mapping[str, float], pool: Pool, block: int, ratio: float, startup: float
) -> Stage:
    work = Copies(units, ratio / max(needs.values()), float(block * pool.gpus), startup)
    return Stage(name, pool, work, needs, pool.nodes)


def _pair_bytes(counted: Counted) -> float:
    return counted.stored.pair_bytes + counted.caption_bytes


def _staging(counted: Counted, told: Assumptions) -> float:
    return staged_bytes(counted.manifest) / _bytes(told["bandwidth"])


def _bytes(gigabytes: float) -> float:
    return gigabytes * 1e9


STAGES: dict[StageName, Callable[[Sizes, Counted, Pool, Assumptions], Stage]] = {
    "encode": encode,
    "relabel": relabel_pairs,
    "reference": reference,
    "evaluate": evaluate,
}
