"""What the trainer's flags say of themselves and of one another, before a file is looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from infra.base.errors import UserError, check_least
from pipelines.latents.kinds import kind_of
from training.method.objective_config import OF_LOGIT, OF_SIGMA, ObjectiveConfig
from training.method.optimizer_config import OptimizerConfig, check_optimizer
from training.method.policy_config import check_base_precision
from training.settings.config import TrainConfig

LEAST = {
    "": {
        **dict.fromkeys(("steps", "workers", "checkpoint_every", "keep_checkpoints", "stop_checks"), 1),
        **dict.fromkeys(("max_failures", "max_preemptions"), -1),  # any number
    },
    "data": {"global_batch": 1, "micro_batch": 1},
    "optimizer": {"warmup_steps": 0, "learning_rate": 0, "adam_epsilon": 0, "weight_decay": 0},
    "validation": {
        "validation_images": 1,
        "sample_every": 1,
        "sampling_steps": 1,
        "held_out_draws": 1,
        "held_out_pairs": 1,
    },
}


def check_flags(config: TrainConfig) -> None:
    """Refuse flags that make no run, whatever the store.

    Raises:
        UserError: naming the flags.
    """
    for group, names in LEAST.items():
        check_least(getattr(config, group) if group else config, names)
    if not 0 < config.cpus_per_worker < math.inf:
        raise UserError(f"{_flag(config, 'cpus_per_worker')}: must be above 0")
    _check_optimizer(config.optimizer)
    if not 0 <= config.data.caption_dropout <= 1:
        raise UserError(f"--caption-dropout {config.data.caption_dropout}: must be between 0 and 1")
    _check_hold_out(config)
    if config.reference_revision is not None and config.reference_model is None:
        raise UserError(f"--reference-revision {config.reference_revision}: of which --reference-model?")
    if config.validation.sample_every is not None and config.validation.sample_prompts is None:
        raise UserError(f"--sample-every {config.validation.sample_every}: of which --sample-prompts?")
    check_batch(config)
    check_objective(config.objective)
    _check_stop(config)
    _check_policy(config)
    _check_sharding(config)


def _check_hold_out(config: TrainConfig) -> None:
    data = config.data
    if not 0 <= data.hold_out < 1:
        raise UserError(f"--hold-out {data.hold_out:g}: must be from 0 to below 1, a share of the captions")
    if data.hold_out and data.held_out_store:
        raise UserError(
            f"--hold-out {data.hold_out:g}: --held-out-store names the held-out pairs already; leave one of the two out"
        )


def _check_stop(config: TrainConfig) -> None:
    """Refuse a rule to stop by that nothing would ever meet."""
    if config.stop_when is None:
        if config.stop_checks != TrainConfig().stop_checks:
            raise UserError(
                f"--stop-checks {config.stop_checks}: only --stop-when has it; give --stop-when, or leave it out"
            )
        return
    if not 0 <= config.stop_when < math.inf:
        raise UserError(f"{_flag(config, 'stop_when')}: must be 0 or more")
    if not config.objective.needs_reference:
        raise UserError(
            f"{_flag(config, 'stop_when')}: compares with a reference, and --objective {config.objective.objective} "
            "has none"
        )


def check_batch(config: TrainConfig) -> None:
    """Refuse a global batch that the workers cannot share out: evenly, or with elastic workers in whole pairs.

    Raises:
        UserError: naming the flags.
    """
    data = config.data
    least = config.min_workers
    if least is None:
        if data.global_batch % (config.workers * data.micro_batch):
            raise UserError(
                f"--global-batch {data.global_batch}: not a multiple of {config.workers} workers "
                f"x --micro-batch {data.micro_batch}; give {_batches_that_do(config)}"
            )
        return
    if not 1 <= least <= config.workers:
        raise UserError(f"--min-workers {least}: from 1 to --workers {config.workers}")
    if data.global_batch < config.workers:
        raise UserError(f"--global-batch {data.global_batch}: fewer pairs than --workers {config.workers}")
    uneven = [world for world in range(least, config.workers + 1) if data.global_batch % world]
    if data.micro_batch == 1 and uneven:  # a rank with one pair fewer would have nothing for its last pass
        raise UserError(
            f"--micro-batch 1: {uneven[0]} of --min-workers {least} to --workers {config.workers} does not divide "
            f"--global-batch {data.global_batch}; give --micro-batch 2 or another global batch"
        )


def _batches_that_do(config: TrainConfig) -> str:
    """Name the next global batch that the workers can share out evenly, and a micro-batch for this one if any does."""
    data = config.data
    at_once = config.workers * data.micro_batch
    larger = f"--global-batch {math.ceil(data.global_batch / at_once) * at_once}"
    share, uneven = divmod(data.global_batch, config.workers)
    if uneven:
        return larger
    fitting = max(size for size in range(1, min(share, data.micro_batch) + 1) if share % size == 0)
    return f"{larger} or --micro-batch {fitting}"


def check_objective(config: ObjectiveConfig) -> None:
    """Refuse parameters that the objective does not have, or that make no loss.

    Raises:
        UserError: naming the flags.
    """
    chosen = f"--objective {config.objective}"
    owned = {
        "label_smoothing": (config.objective == "conservative", "--objective conservative"),
        "dmpo_alpha": (config.objective == "dmpo", "--objective dmpo"),
        **dict.fromkeys(("mapo_k", "mapo_b", "mapo_t"), (config.objective == "mapo", "--objective mapo")),
        **dict.fromkeys(("beta_target", "beta_most"), (config.beta == "auto", "--beta auto")),
        "snr_gamma": (config.weighting == "min-snr", "--weighting min-snr"),
    }
    for name, (used, owner) in owned.items():
        if not used and getattr(config, name) != getattr(ObjectiveConfig(), name):
            this = f"--beta {config.beta}" if owner == "--beta auto" else chosen
            raise UserError(f"{_flag(config, name)}: only {owner} has it, and this is {this}")
    above = ["mapo_k", "mapo_b", "mapo_t", "snr_gamma", "beta_most"]
    if config.needs_reference and config.beta != "auto":
        above.append("beta")
    for name in above:
        if not 0 < getattr(config, name) < math.inf:
            raise UserError(f"{_flag(config, name)}: must be above 0")
    if not 0 <= config.label_smoothing < 0.5:
        raise UserError(f"{_flag(config, 'label_smoothing')}: from 0 to below 0.5, where labels would say nothing")
    _check_stability(config)
    if not 0 < config.dmpo_alpha < 0.5:
        raise UserError(f"{_flag(config, 'dmpo_alpha')}: must be between 0 and 0.5, where labels would say nothing")
    if not 0 <= config.sft_weight < math.inf:
        raise UserError(f"{_flag(config, 'sft_weight')}: must be 0 or more")
    if config.sft_weight and not config.needs_reference:
        raise UserError(f"{_flag(config, 'sft_weight')}: {chosen} has the winner's error in it already; leave it out")
    if config.objective == "mapo" and config.weighting != "constant":
        raise UserError(f"--weighting {config.weighting}: {chosen} has none; its k stands in a timestep weight's place")


def _check_stability(config: ObjectiveConfig) -> None:
    """Refuse a safeguard or an automatic beta that the objective cannot have, or that has no such value."""
    if config.beta == "auto" and config.objective not in OF_SIGMA:
        raise UserError(
            f"--beta auto: only {_listed(OF_SIGMA)} can have it, and this is --objective {config.objective}"
        )
    if not 0 < config.beta_target < 0.5:
        raise UserError(f"{_flag(config, 'beta_target')}: must be between 0 and 0.5, which is the weight at beta 0")
    if config.safeguard is None:
        return
    if config.objective not in OF_LOGIT:
        raise UserError(
            f"{_flag(config, 'safeguard')}: only {_listed(OF_LOGIT)} can have one, and this is --objective "
            f"{config.objective}"
        )
    if not 0 <= config.safeguard <= 1:
        raise UserError(f"{_flag(config, 'safeguard')}: must be from 0 to 1")


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _check_optimizer(config: OptimizerConfig) -> None:
    """Refuse moments that never decay, and a limit of the gradient's norm that turns it round or leaves nothing."""
    for name in ("adam_beta1", "adam_beta2"):
        if not 0 <= getattr(config, name) < 1:
            raise UserError(f"{_flag(config, name)}: from 0 to below 1")
    for name in ("adam_beta1", "adam_beta2", "adam_epsilon") if config.optimizer == "adafactor" else ():
        if getattr(config, name) != getattr(OptimizerConfig(), name):
            raise UserError(f"{_flag(config, name)}: only AdamW has it, and this is --optimizer adafactor")
    if not config.max_gradient_norm > 0:
        raise UserError(f"{_flag(config, 'max_gradient_norm')}: must be above 0; inf for no limit")
    check_optimizer(config)


def _flag(config: Any, name: str) -> str:
    return f"--{name.replace('_', '-')} {getattr(config, name):g}"


def _check_policy(config: TrainConfig) -> None:
    """Refuse settings of adapters and average that make no sense."""
    policy = config.policy
    if policy.lora_rank < 0:
        raise UserError(f"--lora-rank {policy.lora_rank}: must be at least 1, or 0 to train the network itself")
    if policy.lora_alpha is not None and policy.lora_alpha < 1:
        raise UserError(f"--lora-alpha {policy.lora_alpha}: must be at least 1")
    if policy.ema_decay is not None and not 0 < policy.ema_decay < 1:
        raise UserError(f"--ema-decay {policy.ema_decay}: must be between 0 and 1")
    if not policy.lora_rank and (policy.lora_alpha is not None or policy.lora_targets):
        raise UserError("--lora-alpha and --lora-targets: of which --lora-rank? Without one no adapters are trained")
    if policy.base_precision == "float32":
        return
    chosen = f"--base-precision {policy.base_precision}"
    if not policy.lora_rank:
        raise UserError(f"{chosen}: is for frozen weights, and without --lora-rank all are trained; give a rank")
    check_base_precision(policy.base_precision, config.precision)
    if config.sharding.sharding == "fsdp":
        raise UserError(f"{chosen}: shards need weights of one number format; leave it out, or take --sharding ddp")


def _check_sharding(config: TrainConfig) -> None:
    """Refuse a layout that the network or its shards cannot have."""
    layout = config.sharding
    if layout.sharding == "fsdp" and config.optimizer.optimizer == "adamw8bit":
        raise UserError("--sharding fsdp: the state of --optimizer adamw8bit has no shards; take adamw or adafactor")
    if layout.offload != "none":
        if not config.policy.lora_rank:
            raise UserError("--offload blocks: is for frozen weights, and without --lora-rank all are trained")
        if layout.sharding == "fsdp" or layout.compile:
            other = "--sharding fsdp" if layout.sharding == "fsdp" else "--compile"
            raise UserError(f"--offload blocks: does not go with {other}, which lays out weights that stay; take one")
    if not layout.channels_last:
        return
    if layout.sharding == "fsdp":
        raise UserError("--channels-last: shards have no such layout; leave it out, or take --sharding ddp")
    part = kind_of(config.start.folder(())).network
    if part != "unet":
        raise UserError(f"--channels-last: a layout of convolutions, and the {part} of --model {config.model} has none")
