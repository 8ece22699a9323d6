"""The flags of infra/plan.py: what they are, their presets, and what makes no plan."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from infra.base.accelerators import ACCELERATORS, Name
from infra.base.errors import UserError, check_least
from infra.planning.plan_counts import encode_preset
from infra.planning.plan_stages import Pool
from pipelines.latents import encode_config
from training.settings.presets import PRESETS as TRAINING

SHAPES = "infra/benchmarks/shapes"  # settings of SD1.5 and SDXL, so that these need no network
GIVEN = re.compile(r"(?:(?P<stage>\w+)=)?(?P<nodes>\d+)x(?:(?P<gpus>\d+)x)?(?P<card>[\w-]+)")
PLANNED = ("encode", "relabel", "reference", "train", "evaluate")


@dataclass(frozen=True)
class PlanConfig:
    """Flags of the plan."""

    preset: str = "sd15"
    """Whose settings: one of train_dpo.py's presets."""
    model: str = f"{SHAPES}/sd15"
    """A diffusers folder or Hub name, of which the settings are read."""
    pairs: float = 851_293
    """Kept pairs; 1e9 may be written so. Pick-a-Pic's by default."""
    steps: int | None = None
    """Of training; by default the preset's, and at least one epoch."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; by default the preset's."""
    validation_images: int = 0
    """Images drawn after each checkpoint to pick the best."""
    captions: int = 1632
    """That base and policy are judged by, one image each; PartiPrompts by default."""
    fleet: tuple[str, ...] = ("encode=8xl4", "relabel=8xl4", "reference=8xa10g", "train=2x8xh100", "evaluate=4xl4")
    """STAGE=NODESxCARD, or NODESxGPUSxCARD where a node has several; without STAGE= it is all stages'. A stage without
    nodes is left out; without reference= the reference runs beside the policy."""
    price: tuple[str, ...] = ()
    """CARD=PRICE of an accelerator-hour in any currency; without it no cost is told."""
    mtbf_hours: float | None = None
    """Mean time until one node fails or is taken back; without it nothing fails."""
    replacement_minutes: float = 10.0
    """From then until another stands in its place."""
    min_nodes: int | None = None
    """Of training, which is elastic down to so many; by default it waits for all."""
    measured: tuple[str, ...] = ()
    """BENCHMARK=FILE: figures of your own machines, as infra/benchmarks/BENCHMARK.py --json wrote them."""
    assume: tuple[str, ...] = ()
    """NAME=VALUE: another value of an assumption in the table."""
    repetitions: int = 100
    """Of the simulation of failures."""
    seed: int = 0
    json: str | None = None
    """File for all figures."""


def _preset(name: str) -> PlanConfig:
    shapes = {"sd15": "sd15", "sd15-paper": "sd15", "sdxl": "sdxl"}
    return PlanConfig(name, f"{SHAPES}/{shapes[name]}" if name in shapes else TRAINING[name].model)


PRESETS = {name: _preset(name) for name in TRAINING if encode_preset(name) in encode_config.PRESETS}


def check(config: PlanConfig) -> dict[str, Pool]:
    """Refuse what makes no plan, and return the nodes by stage.

    Raises:
        UserError: naming the flag.
    """
    check_least(config, dict.fromkeys(("steps", "checkpoint_every", "captions", "repetitions", "min_nodes"), 1))
    if not (config.pairs >= 1 and config.pairs == math.floor(config.pairs) and math.isfinite(config.pairs)):
        raise UserError(f"--pairs {config.pairs:g}: a whole number of pairs")
    for name in ("replacement_minutes", "validation_images"):
        if (value := getattr(config, name)) < 0:
            raise UserError(f"--{name.replace('_', '-')} {value:g}: below zero")
    if config.mtbf_hours is not None and not config.mtbf_hours > 0:
        raise UserError(f"--mtbf-hours {config.mtbf_hours:g}: must be above 0")
    batch = TRAINING[config.preset].data.global_batch
    pools = read_fleet(config.fleet)
    if config.pairs < batch:
        raise UserError(f"--pairs {config.pairs:g}: fewer than one global batch of {batch}")
    if (training := pools.get("train")) and training.accelerators > batch:
        raise UserError(f"--fleet train={training}: more workers than the {batch} pairs of a step")
    if config.min_nodes is not None and (training is None or config.min_nodes > training.nodes):
        raise UserError(f"--min-nodes {config.min_nodes}: more than train has")
    return pools


def read_fleet(given: Sequence[str]) -> dict[str, Pool]:
    """Read the nodes of each stage.

    Raises:
        UserError: naming what is no fleet.
    """
    pools: dict[str, Pool] = {}
    for text in given:
        found = GIVEN.fullmatch(text)
        if not found or found["stage"] not in (None, *PLANNED) or not int(found["nodes"]) * int(found["gpus"] or 1):
            raise UserError(f"--fleet {text}: STAGE=NODESxCARD or STAGE=NODESxGPUSxCARD, of {', '.join(PLANNED)}")
        pool = Pool(int(found["nodes"]), int(found["gpus"] or 1), _card("--fleet", text, found["card"]))
        pools |= dict.fromkeys([found["stage"]] if found["stage"] else PLANNED, pool)
    return {stage: pools[stage] for stage in PLANNED if stage in pools}


def read_prices(given: Sequence[str]) -> dict[Name, float]:
    """Read the price of an accelerator-hour by card.

    Raises:
        UserError: naming what is no price.
    """
    prices: dict[Name, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            prices[_card("--price", text, name)] = price = float(value)
        except ValueError as error:
            raise UserError(f"--price {text}: CARD=PRICE") from error
        if not (price >= 0 and math.isfinite(price)):
            raise UserError(f"--price {text}: no price")
    return prices


def _card(flag: str, text: str, name: str) -> Name:
    if name not in ACCELERATORS:
        raise UserError(f"{flag} {text}: no accelerator of {', '.join(get_args(Name))}")
    return name  # type: ignore[return-value]
