"""What the rounds refuse before any round begins, and the settings that they were begun with."""

from __future__ import annotations

from infra.base import begun, cli, files
from infra.base.errors import UserError, check_least
from labelers.scoring import scorers
from pipelines.drawing.prompts import read_prompts
from pipelines.experiments.rounds_config import WORLD, RoundsConfig
from pipelines.latents import store
from training.run import train_dpo
from training.settings.config import TrainConfig
from training.settings.flags import check_flags

# What may differ when a run goes on: how many rounds, and what does not change a result.
FREE = {"rounds", "samplers", "batch_size", *train_dpo.FREE} - {"steps", "reference"}


def check_config(config: RoundsConfig) -> None:
    """Check what no step would notice before hours have passed.

    Raises:
        UserError: naming the flag that does not fit.
    """
    check_least(config, {"rounds": 1, "groups": 1, "group_size": 2})
    rank = config.train.policy.lora_rank
    if rank:
        raise UserError(f"--lora-rank {rank}: a round starts from a whole model, which adapters are not; leave it out")
    if config.train.model != TrainConfig.model:
        for flag, given in (("--prompts", config.draw.prompts), ("--test-prompts", config.test_prompts)):
            if given.startswith(WORLD):
                raise UserError(f"{flag}: give captions for {config.train.model}; {given} is of the embedded world")
    trained = read_prompts(files.resolve(config.draw.prompts))[: config.draw.limit]
    tested = read_prompts(files.resolve(config.test_prompts))[: config.test_limit]
    _check_captions(config, set(trained), set(tested))
    held_out = config.train.data.held_out_store
    if held_out:
        store.read_manifest(files.resolve(held_out))
    check_flags(config.train)
    if config.train.objective.objective == "soft":
        raise UserError("--objective soft: the pairs of a round are ranked and have no probabilities")
    per_group = 1 if config.pairs == "best-worst" else config.group_size * (config.group_size - 1) // 2
    most = len(trained) * config.groups * per_group
    if most < config.train.data.global_batch:
        raise UserError(f"--global-batch {config.train.data.global_batch}: a round has {most} pairs at the most")
    for name, weights in scorers.weights_of(config.scorers, config.weights).items():
        scorers.check(name, weights, trained * (name == config.scorer) + tested * (name in config.judges))


def _check_captions(config: RoundsConfig, trained: set[str], tested: set[str]) -> None:
    """Refuse captions that are trained on and judged on as well."""
    validation = config.train.validation.validation_prompts
    validated = set(read_prompts(files.resolve(validation))) if validation else set()
    for flag, path, judged in (
        ("--test-prompts", config.test_prompts, tested),
        ("--validation-prompts", validation, validated),
    ):
        shared = trained & judged
        if shared:
            raise UserError(f"{flag} {path}: {len(shared)} of its captions are in --prompts too")


def settle(config: RoundsConfig) -> None:
    """Note the settings of a new run, and refuse others for one that was begun.

    Raises:
        UserError: naming the settings that differ.
    """
    path = files.join(files.resolve(config.train.output), "config.json")
    now = cli.as_saved(config)
    if files.exists(path):
        before = cli.begun_with(path, RoundsConfig())
        begun.refuse_other_settings(config.train.output, before, now, "give another --output", FREE)
    files.write_json(path, now)
