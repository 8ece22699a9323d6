"""The flags of the rounds: their own, and the generator's and the trainer's where no step decides them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

from infra.base.flags import Hidden, Shown
from infra.base.places import PathOrName
from pipelines.drawing import generate_config
from pipelines.drawing.generate_config import GenerateConfig
from pipelines.judging.rank_config import Pairs
from pipelines.latents import encode_config
from pipelines.latents.encode_config import EncodeConfig
from training.method.objective_config import ObjectiveConfig
from training.method.optimizer_config import OptimizerConfig
from training.settings.config import DataConfig, TrainConfig
from training.settings.presets import PRESETS as TRAIN_PRESETS

WORLD = "infra/world"
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
TrainingFlags = Hidden(
    *("reference_model", "reference_revision", "resume_from", "store", "labels", "reference", "push_to_hub")
)


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
    pairs: Pairs = "best-worst"
    """Pairs of a group: its best and its worst image, or all."""
    scorer: str = "oracle"
    """Scorer that ranks the images: a name from docs/scorers.md, for example pickscore, or module:function."""
    judges: tuple[str, ...] = ("oracle", "fidelity")
    """Scorers that compare the model after each round with the base."""
    weights: tuple[PathOrName, ...] = ()
    """Weights of scorer and judges: world (of the embedded world), published (from the Hub), or NAME=PATH for one of
    them."""
    reference: Literal["original", "last"] = "original"
    """Model that each round's training is held to: original is the base, last the model that the round began with."""
    test_prompts: PathOrName = f"{WORLD}/prompts/test.txt"
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
