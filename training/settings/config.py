"""The trainer's settings, each group owned by the part it sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from infra.base.models import Model
from infra.base.places import PathOrName, PathText
from training.backbones.schedule_config import ScheduleConfig
from training.layout.sharding_config import ShardingConfig
from training.method.objective_config import ObjectiveConfig
from training.method.optimizer_config import OptimizerConfig
from training.method.policy_config import PolicyConfig
from training.settings.tracking_config import TrackingConfig

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on, in which portions."""

    store: PathText = "runs/store"
    """Latent store to train on, from encode_latents.py."""
    source: PathOrName | None = None
    """Pairs to encode into --store first, in squares and with the model's encoder settings; a finished store is kept.
    For --buckets or other encoder settings run encode_latents.py instead. By default the store must be there."""
    labels: str = "human"
    """Label set of the store that says which image of a pair won; relabel.py makes others than human."""
    reference: str | None = None
    """Name of the reference errors in the store, from encode_reference.py; without it the reference model runs
    beside the policy."""
    held_out_store: PathText | None = None
    """Latent store of other pairs, on which the implicit accuracy is measured while training."""
    hold_out: float = 0.0
    """Share of the store's captions, from 0 to below 1, whose pairs are held out: they are not trained on, and the
    implicit accuracy is measured on them. Which captions depends on nothing but the captions."""
    cache: PathText | None = None
    """Folder on each node for what it keeps of a store on S3, its index, and of a run folder on S3; by default in the
    temporary folder."""
    global_batch: int = 32
    """Pairs per optimizer step, over all workers. The paper takes 2048."""
    micro_batch: int = 16
    """Pairs that a worker computes at once."""
    caption_dropout: float = 0.2
    """Share of pairs that are trained without their caption, from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The paper's Sec. 5.1: images from held-out captions, judged while training; the best checkpoint is the result."""

    validation_prompts: PathText | None = None
    """Captions to draw at each checkpoint, one on each line of a text file; the checkpoint with the best images is
    the result. By default the last checkpoint is."""
    sample_prompts: PathText | None = None
    """Captions to draw while training, to look at and not to judge: the first 16 of a file; training captions are
    allowed. The images are on the page index.html of the run folder."""
    sample_every: int | None = None
    """Steps between these images; by default they are drawn at each checkpoint."""
    validation_scorer: str = "oracle"
    """Scorer that judges these images: a name from docs/scorers.md, for example pickscore, or module:function."""
    validation_weights: PathOrName = "world"
    """Weights of that scorer: world (of the embedded world), published (from the Hub), or a local path."""
    validation_images: int = 1
    """Images of each caption."""
    sampling_steps: int = 20
    """Denoising steps of each image."""
    guidance_scale: float = 3.0
    """Strength of classifier-free guidance in drawing them."""
    held_out_draws: int = 4
    """Draws of each held-out pair at a checkpoint; the final figure takes 10, as the paper does."""
    held_out_pairs: int = 128
    """Held-out pairs at a checkpoint; the final figure takes all."""

    @property
    def draws(self) -> bool:
        """Say whether a run draws images at all."""
        return self.validation_prompts is not None or self.sample_prompts is not None


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of the trainer."""

    GROUPS: ClassVar = {
        "basic": ("store", "source", "model", "output", "steps", "learning_rate", "beta"),
        "data": (
            *("labels", "hold_out", "held_out_store", "global_batch", "micro_batch"),
            *("caption_dropout", "cache", "seed"),
        ),
        "objective": (
            *(
                "objective",
                "beta_target",
                "beta_most",
                "safeguard",
                "sft_weight",
                "label_smoothing",
                "dmpo_alpha",
                "mapo_k",
                "mapo_b",
                "mapo_t",
            ),
            *("weighting", "snr_gamma", "error"),
        ),
        "LoRA and averaging": ("lora_rank", "lora_alpha", "lora_targets", "base_precision", "ema_decay"),
        "reference": ("reference", "reference_model", "reference_revision"),
        "optimizer": (
            "optimizer",
            "warmup_steps",
            "adam_beta1",
            "adam_beta2",
            "adam_epsilon",
            "weight_decay",
            "max_gradient_norm",
        ),
        "noise levels": ("timesteps", "zero_terminal_snr"),
        "validation": (
            "validation_prompts",
            "sample_prompts",
            "sample_every",
            "validation_scorer",
            "validation_weights",
            "validation_images",
            "sampling_steps",
            "guidance_scale",
            "held_out_draws",
            "held_out_pairs",
        ),
        "checkpoints": ("checkpoint_every", "keep_checkpoints", "resume_from", "stop_when", "stop_checks"),
        "result": ("export", "push_to_hub"),
        "curves": ("report_to",),
        "workers and speed": (
            "workers",
            "min_workers",
            "cpus_per_worker",
            "max_failures",
            "max_preemptions",
            "precision",
            "sharding",
            "activation_checkpointing",
            "offload",
            "compile",
            "channels_last",
        ),
        "model": ("revision",),
    }

    model: PathOrName = "infra/world/model"
    """Model to train: a diffusers folder, a Hub name, a single .safetensors file, or BASE+FILE. It is also the
    reference, unless you name another."""
    revision: str | None = None
    """Revision of the model on the Hub, for example a commit; by default the newest."""
    reference_model: PathOrName | None = None
    """Model that the policy is held to, if it is another one: of the same shape, with the same VAE and text
    encoders."""
    reference_revision: str | None = None
    """Revision of the reference model on the Hub."""
    output: PathText = "runs/dpo"
    """Run folder, local or s3://. Give the same folder again to go on from its last checkpoint."""
    export: Literal["folder", "single-file"] = "folder"
    """Form of the result: a folder that diffusers opens, or beside it also a single file for ComfyUI, A1111 and Forge
    (SD1.5's and SDXL's kind; of LoRA in kohya's names)."""
    push_to_hub: str | None = None
    """Repository on the Hub, OWNER/NAME, that gets the result when it is finished. A new one is private. The
    login is HF_TOKEN of the environment. The same command also sends what is finished, and nothing twice."""
    seed: int = 0
    """Seed of the order of pairs, of noise and timesteps."""
    steps: int = 100
    """Optimizer steps of the whole training."""
    checkpoint_every: int = 50
    """Steps between checkpoints; images are judged at each, if there are --validation-prompts."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep, beside the best one."""
    stop_when: float | None = None
    """Stop once the winners' error is above the reference's by more than this share, for example 0.05. The result is
    then the best checkpoint, or without --validation-prompts the last one within the limit. By default no run stops."""
    stop_checks: int = 3
    """For --stop-when: number of checkpoints in a row at which it must hold."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of the forward pass; weights, errors and losses are float32 with either."""
    workers: int = 1
    """Number of workers that share the training, one GPU each where there are GPUs."""
    min_workers: int | None = None
    """Fewest workers to go on with when the cluster shrinks; with room again there are up to --workers."""
    cpus_per_worker: float = 0.5
    """Cores that each worker holds."""
    max_failures: int = 3
    """Lost workers to recover from before the job gives up."""
    max_preemptions: int = -1
    """Nodes taken back by their owner to recover from; -1 is any number. They do not count as failures."""
    resume_from: int | None = None
    """Step of an earlier checkpoint to go back to; later ones are deleted. By default the last one counts."""
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    @property
    def autocast(self) -> torch.dtype:
        """Return the dtype of forward passes."""
        import torch  # not on the way of those who only read flags

        return getattr(torch, self.precision)

    @property
    def start(self) -> Model:
        """Return the model that the policy starts from."""
        return Model(self.model, self.revision)

    @property
    def reference(self) -> Model:
        """Return the model that the policy is held to."""
        return self.start if self.reference_model is None else Model(self.reference_model, self.reference_revision)
