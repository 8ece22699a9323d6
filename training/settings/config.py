"""The trainer's settings, each group owned by the part it sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from infra.base.models import Model
from training.backbones.base import ScheduleConfig
from training.layout.sharding import ShardingConfig
from training.method.objectives import ObjectiveConfig
from training.method.optimizers import OptimizerConfig
from training.method.policy import PolicyConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on, in which portions."""

    store: str = "runs/store"
    """Latent store, from encode_latents.py."""
    labels: str = "human"
    """Label set of the store that says which slot won."""
    reference: str | None = None
    """Cached reference errors of the store, from encode_reference.py; without, the reference runs beside the policy."""
    held_out_store: str | None = None
    """Latent store of another split, for the held-out implicit accuracy."""
    cache: str | None = None
    """Folder for each node's copies of the store and of a run folder on S3; by default in the temporary folder."""
    global_batch: int = 32
    """Pairs per optimizer step, over all workers. The paper: 2048."""
    micro_batch: int = 16
    """Pairs per forward pass and worker."""
    caption_dropout: float = 0.2
    """Share of pairs that see the empty caption, both slots and both models alike."""


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The paper's Sec. 5.1: images from held-out captions, judged while training; the best checkpoint is the result."""

    validation_prompts: str | None = None
    """Captions, one a line; without them the last checkpoint is the result."""
    validation_scorer: str = "oracle"
    """A name from labelers/scoring/scorers.py, or module:function."""
    validation_weights: str = "world"
    """The scorer's weights: world (the embedded world's), published (the Hub's), or a local path."""
    validation_images: int = 1
    """Images per caption, at fixed seeds."""
    sampling_steps: int = 20
    guidance_scale: float = 3.0
    held_out_draws: int = 4
    """Draws per held-out pair during training; the final figure takes 10, as the paper."""
    held_out_pairs: int = 128
    """Held-out pairs used during training; the final figure takes all."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Flags of the trainer."""

    model: str = "infra/world/model"
    """Diffusers folder or Hub name: the start of the policy, and the reference where no other is named."""
    revision: str | None = None
    """Revision of a Hub name."""
    reference_model: str | None = None
    """The reference, where it is not the policy's start: a model of the same shape and frozen parts."""
    reference_revision: str | None = None
    """Revision of the reference's Hub name."""
    output: str = "runs/dpo"
    """Run folder, local or s3://; the same folder again resumes."""
    seed: int = 0
    steps: int = 100
    checkpoint_every: int = 50
    """Steps between checkpoints; validation takes place at each."""
    keep_checkpoints: int = 2
    """How many of the latest to keep, beside the best."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass; weights, errors and losses stay float32."""
    workers: int = 1
    min_workers: int | None = None
    """Go on with as few workers as this where the cluster has no more, and with up to --workers when it has again."""
    cpus_per_worker: float = 0.5
    max_failures: int = 3
    """Lost workers to recover from before giving up."""
    max_preemptions: int = -1
    """Nodes taken back by their owner to recover from, which count apart; -1: any number."""
    resume_from: int | None = None
    """Go back to the checkpoint after this step and forget the later ones; by default the last complete one counts."""
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    @property
    def autocast(self) -> torch.dtype:
        """Return the dtype of forward passes."""
        return getattr(torch, self.precision)

    @property
    def start(self) -> Model:
        """Return the model that the policy starts from."""
        return Model(self.model, self.revision)

    @property
    def reference(self) -> Model:
        """Return the model that the policy is held to."""
        return self.start if self.reference_model is None else Model(self.reference_model, self.reference_revision)
