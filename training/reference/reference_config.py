"""The flags of the reference's errors and their presets, apart from what computes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from infra.base.places import PathOrName, PathText
from training.backbones.schedule_config import ScheduleConfig
from training.method.policy_config import BasePrecision
from training.settings.config import TrainConfig
from training.settings.presets import PRESETS as TRAIN_PRESETS


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """Settings of the reference's errors. They must be those of the training."""

    GROUPS: ClassVar = {
        "basic": ("store", "name", "model", "draws"),
        "training": (
            "seed",
            "caption_dropout",
            "precision",
            "base_precision",
            "timesteps",
            "zero_terminal_snr",
            "revision",
        ),
        "speed": ("batch_size", "copies", "gpus_per_copy", "rows_per_file", "cache"),
    }

    store: PathText = "runs/store"
    """Latent store; the errors are written to its folder reference/NAME."""
    name: str = "base"
    """Name of the errors, which train_dpo.py --reference takes."""
    model: PathOrName = "infra/world/model"
    """Reference model, a diffusers folder or Hub name: the --reference-model of the training, or else its --model."""
    revision: str | None = None
    """Revision of the model on the Hub, for example a commit; by default the newest."""
    draws: int = 4
    """Visits to each pair. A training needs one for each epoch begun, and its --dry-run says how many its steps are. A
    store with buckets has fewer steps an epoch, as each bucket's last pairs fill no micro-batch."""
    seed: int = 0
    """The --seed of the training."""
    caption_dropout: float = 0.2
    """The --caption-dropout of the training."""
    batch_size: int = 16
    """Pairs that are computed at once; give the --micro-batch of the training, for errors equal to the last bit."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """The --precision of the training."""
    base_precision: BasePrecision = "float32"
    """The --base-precision of the training: number format of the reference's weights."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    copies: int = 0
    """Number of copies of the reference model; 0 takes one for each GPU, or one where there is none."""
    gpus_per_copy: float | None = None
    """GPUs that each copy holds; by default 1 where the cluster has GPUs, else 0."""
    cache: PathText | None = None
    """Folder on each node for the index of a store on S3; by default in the temporary folder."""
    rows_per_file: int = 1024
    """Visits per file. When a run is killed, each copy loses at most so many."""


def preset(training: TrainConfig) -> ReferenceConfig:
    """Return the settings whose errors a training with a preset takes; five draws are Pick-a-Pic's 2,000 steps."""
    return ReferenceConfig(
        model=training.model,
        draws=5,
        caption_dropout=training.data.caption_dropout,
        batch_size=training.data.micro_batch,
        precision=training.precision,
        base_precision=training.policy.base_precision,
        schedule=training.schedule,
        rows_per_file=4096,
    )


PRESETS = {name: preset(training) for name, training in TRAIN_PRESETS.items()}
