"""The flags of the rounds: their own, and the generator's and the trainer's where no step decides them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from infra.base import begun, cli, files
from infra.base.errors import UserError, check_least
from infra.base.flags import Hidden, Shown
from labelers.scoring import scorers
from pipelines.drawing import generate_config
from pipelines.drawing.generate_config import GenerateConfig
from pipelines.drawing.prompts import read_prompts
from pipelines.judging import rank_pairs
from pipelines.latents import encode_config, store
from pipelines.latents.encode_config import EncodeConfig
from training.method.objective_config import ObjectiveConfig
from training.method.optimizer_config import OptimizerConfig
from training.run import train_dpo
from training.settings.config import DataConfig, TrainConfig
from training.settings.flags import check_flags
from training.settings.presets import PRESETS as TRAIN_PRESETS

WORLD = "infra/world"
# What may differ when a run goes on: how many rounds, and what does not change a result.
FREE = {"rounds", "samplers", "batch_size", *train_dpo.FREE} - {"steps", "reference"}
# A pair's images are the model's own: drawn from noise alone, and by no refiner, as the trainer's validation draws.
DrawingFlags = Shown("prompts", "limit", "dtype", "max_tokens", "samplers", "batch_size")
DRAWING = GenerateConfig(
    model="",
    output="",
    gallery=0,
    prompts=f"{WORLD}/prompts/train.txt",
    samplers=2,
    sampling_steps=0,
    guidance_scale=0.0,
)
# model is the base, output the folder of all rounds, seed decides every draw; each round has a store of its own.
TrainingFlags = Hidden("reference_model", "reference_revision", "resume_from", "store", "labels", "reference")


TRAINER_GROUPS = (
    "objective",
    "LoRA and averaging",
    "optimizer",
    "noise levels",
    "validation",
    "checkpoints",
    "workers and speed",
    "model",
)


def world_training() -> TrainConfig:
    """Return the settings of a round on the embedded world: about three visits to each of a round's pairs."""
    return TrainConfig(
        output="runs/rounds",
        steps=60,
        checkpoint_every=60,
        workers=2,
        data=DataConfig(store=""),
        objective=ObjectiveConfig(beta=500.0),
        optimizer=OptimizerConfig(learning_rate=2e-5, warmup_steps=10),
        validation=replace(TrainConfig().validation, sampling_steps=12),
    )


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """Settings of the rounds, and of generator and trainer where no step of a round decides them."""

    GROUPS: ClassVar = {
        "basic": ("model", "prompts", "test_prompts", "output", "rounds", "scorer", "judges"),
        "pairs": ("groups", "group_size", "pairs", "limit", "weights", "test_limit"),
        "training": (
            "steps",
            "learning_rate",
            "beta",
            "global_batch",
            "micro_batch",
            "reference",
            "caption_dropout",
            "held_out_store",
            "cache",
            "seed",
        ),
        "drawing": ("dtype", "max_tokens", "samplers", "batch_size"),
        **{name: TrainConfig.GROUPS[name] for name in TRAINER_GROUPS},
    }

    rounds: int = 2
    """Number of rounds."""
    groups: int = 1
    """Groups of images of each caption in a round; each group gives pairs of its own."""
    group_size: int = 4
    """Images of a group."""
    pairs: rank_pairs.Pairs = "best-worst"
    """Pairs of a group: its best and its worst image, or all."""
    scorer: str = "oracle"
    """Scorer that ranks the images: a name from labelers/scoring/scorers.py, or module:function."""
    judges: tuple[str, ...] = ("oracle", "fidelity")
    """Scorers that compare the model after each round with the base."""
    weights: tuple[str, ...] = ()
    """Weights of scorer and judges: world (of the embedded world), published (from the Hub), or NAME=PATH for one of
    them."""
    reference: Literal["original", "last"] = "original"
    """Model that each round's training is held to: original is the base, last the model that the round began with."""
    test_prompts: str = f"{WORLD}/prompts/test.txt"
    """Captions on which the models are judged; none of them may be trained on."""
    test_limit: int | None = None
    """Number of these captions to take, from the first; by default all."""
    draw: Annotated[GenerateConfig, DrawingFlags] = DRAWING
    encode: Annotated[EncodeConfig, Shown()] = field(default_factory=EncodeConfig)
    train: Annotated[TrainConfig, TrainingFlags] = field(default_factory=world_training)

    @property
    def scorers(self) -> tuple[str, ...]:
        """Return the names of the scorer and the judges, each once."""
        return tuple(dict.fromkeys((self.scorer, *self.judges)))


def published(name: str) -> RoundsConfig:
    """Return the settings of rounds on a published model, from the other commands' presets of that name."""
    train = TRAIN_PRESETS[name]
    return RoundsConfig(
        scorer="pickscore",
        judges=("pickscore", "hpsv2", "clip", "aesthetics"),
        weights=("published",),
        draw=generate_config.PRESETS[name],
        encode=encode_config.PRESETS[name],
        train=replace(
            train,
            output=f"runs/rounds-{name}",
            steps=200,
            optimizer=replace(train.optimizer, warmup_steps=50),  # the launchers' own would outlast a round
            data=replace(train.data, store=""),
        ),
    )


PRESETS = {name: published(name) for name in generate_config.PRESETS}


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
