"""The flags of infra/plan.py, their presets and their checks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, get_args

from infra.base.accelerators import ACCELERATORS, Name
from infra.base.errors import UserError, check_least
from infra.base.places import PathOrName, PathText
from infra.planning.pool import Pool
from pipelines.latents import encode_config
from training.settings.presets import PRESETS as TRAINING

ROOT = Path(__file__).parents[2]
SHAPES = "infra/benchmarks/shapes"  # settings of some models, so that a plan of these needs no download
GIVEN = re.compile(r"(?:(?P<stage>\w+)=)?(?P<nodes>\d+)x(?:(?P<gpus>\d+)x)?(?P<card>[\w-]+)")
PLANNED = ("encode", "relabel", "reference", "train", "evaluate")


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Flags of the plan."""

    GROUPS: ClassVar = {
        "basic": ("preset", "pairs", "fleet", "price", "mtbf_hours"),
        "run": ("model", "steps", "checkpoint_every", "validation_images", "captions"),
        "failures": ("replacement_minutes", "min_nodes", "repetitions", "seed"),
        "assumptions": ("measured", "assume", "json"),
    }

    preset: str = "sd15"
    """Preset of train_dpo.py whose settings the run has."""
    model: PathOrName = f"{SHAPES}/sd15"
    """Diffusers folder or Hub name of the model; only its settings are read."""
    pairs: float = 851_293
    """Kept pairs, for example 1e9; by default those of Pick-a-Pic."""
    steps: int | None = None
    """Training steps; by default the preset's, and at least one epoch."""
    checkpoint_every: int | None = None
    """Training steps between checkpoints; by default the best number with --mtbf-hours, else the preset's."""
    validation_images: int = 0
    """Images drawn after each checkpoint to choose the best one."""
    captions: int = 1632
    """Captions of the evaluation; base and policy draw one image of each. By default the number of PartiPrompts."""
    fleet: tuple[str, ...] = ("encode=8xl4", "relabel=8xl4", "reference=8xa10g", "train=2x8xh100", "evaluate=4xl4")
    """Nodes of each stage: STAGE=NODESxCARD, or STAGE=NODESxGPUSxCARD where a node has several cards. Without STAGE=
    they are the nodes of all stages. A stage that has no nodes is left out. Without reference= the trainer runs the
    reference itself."""
    price: tuple[str, ...] = ()
    """Price of an accelerator-hour, CARD=PRICE, in any currency; without it the plan shows no cost."""
    mtbf_hours: float | None = None
    """Mean hours until one node fails or is taken back; without it no node fails."""
    replacement_minutes: float = 10.0
    """Minutes from a failure until another node takes the place."""
    min_nodes: int | None = None
    """Fewest nodes that training goes on with after a failure; by default it waits for all of them."""
    measured: tuple[PathText, ...] = ()
    """Figures of your own machines, BENCHMARK=FILE; infra/benchmarks/BENCHMARK.py --json writes the file."""
    assume: tuple[str, ...] = ()
    """Another value of an assumption, NAME=VALUE; the plan's last table lists the names."""
    repetitions: int = 100
    """How often the failures are simulated; the plan shows the means."""
    seed: int = 0
    """Seed of the simulated failures."""
    json: PathText | None = None
    """File to write all figures to."""


def encode_preset(preset: str) -> str:
    """Return the encoder's preset that goes with one of the trainer's."""
    return preset.removesuffix("-paper").removesuffix("-lora")


def _preset(name: str) -> PlanConfig:
    shape = encode_preset(name)
    model = f"{SHAPES}/{shape}" if (ROOT / SHAPES / shape).is_dir() else TRAINING[name].model
    return PlanConfig(preset=name, model=model)


PRESETS = {name: _preset(name) for name in TRAINING if encode_preset(name) in encode_config.PRESETS}


def check(config: PlanConfig) -> dict[str, Pool]:
    """Refuse flags that make no plan, and return the nodes by stage.

    Raises:
        UserError: naming the flag.
    """
    check_least(config, dict.fromkeys(("steps", "checkpoint_every", "captions", "repetitions", "min_nodes"), 1))
    if not (config.pairs >= 1 and config.pairs == math.floor(config.pairs) and math.isfinite(config.pairs)):
        raise UserError(f"--pairs {config.pairs:g}: pairs come whole; give a whole number of at least 1")
    for name in ("replacement_minutes", "validation_images"):
        value = getattr(config, name)
        if value < 0:
            raise UserError(f"--{name.replace('_', '-')} {value:g}: must be at least 0")
    if config.mtbf_hours is not None and not config.mtbf_hours > 0:
        raise UserError(f"--mtbf-hours {config.mtbf_hours:g}: must be above 0")
    batch = TRAINING[config.preset].data.global_batch
    pools = read_fleet(config.fleet)
    if config.pairs < batch:
        raise UserError(
            f"--pairs {config.pairs:g}: a step takes a global batch of {batch} pairs; give at least so many"
        )
    training = pools.get("train")
    if training and training.accelerators > batch:
        raise UserError(f"--fleet train={training}: more workers than the {batch} pairs of a step; give fewer nodes")
    if config.min_nodes is not None and (training is None or config.min_nodes > training.nodes):
        raise UserError(f"--min-nodes {config.min_nodes}: more nodes than --fleet gives train; give fewer")
    return pools


def read_fleet(given: Sequence[str]) -> dict[str, Pool]:
    """Read the nodes of each stage.

    Raises:
        UserError: naming the value that is not of the form NODESxCARD.
    """
    pools: dict[str, Pool] = {}
    for text in given:
        parts = GIVEN.fullmatch(text)
        if not parts or parts["stage"] not in (None, *PLANNED) or not int(parts["nodes"]) * int(parts["gpus"] or 1):
            raise UserError(
                f"--fleet {text}: give STAGE=NODESxCARD or STAGE=NODESxGPUSxCARD with at least one of each, "
                f"where STAGE is one of {', '.join(PLANNED)}"
            )
        pool = Pool(int(parts["nodes"]), int(parts["gpus"] or 1), _card("--fleet", text, parts["card"]))
        pools |= dict.fromkeys([parts["stage"]] if parts["stage"] else PLANNED, pool)
    return {stage: pools[stage] for stage in PLANNED if stage in pools}


def read_prices(given: Sequence[str]) -> dict[Name, float]:
    """Read the price of an accelerator-hour by card.

    Raises:
        UserError: naming the value that is not of the form CARD=PRICE.
    """
    prices: dict[Name, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            price = float(value)
        except ValueError as error:
            raise UserError(
                f"--price {text}: {value!r} is not a number; give CARD=PRICE, for example l4=0.8"
            ) from error
        if not (price >= 0 and math.isfinite(price)):
            raise UserError(f"--price {text}: {price:g} is no price; give a number of at least 0")
        prices[_card("--price", text, name)] = price
    return prices


def _card(flag: str, text: str, name: str) -> Name:
    if name not in ACCELERATORS:
        raise UserError(f"{flag} {text}: {name!r} is no known accelerator; give one of {', '.join(get_args(Name))}")
    return name  # type: ignore[return-value]
