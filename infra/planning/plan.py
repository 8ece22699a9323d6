"""Plan a whole run on machines that fail: `python infra/plan.py --preset sd15 --mtbf-hours 500 --price l4=0.8`.

The stages run one after the other, each on its own nodes. The plan shows the time, cost, losses and bottleneck of each,
and how another checkpoint interval would change the training. It starts nothing and reads no weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from infra.base import files
from infra.base.errors import UserError
from infra.planning import fleet, measured, plan_stages, plan_table
from infra.planning.fleet import Copies, Fleet, Outcome, Training
from infra.planning.measured import Assumptions
from infra.planning.plan_counts import Counted
from infra.planning.plan_flags import PlanConfig, check, read_prices
from infra.planning.plan_stages import Sizes, Stage
from infra.planning.pool import Pool
from training.settings.presets import PRESETS as TRAINING

FACTORS = (0.125, 0.25, 0.5, 1, 2, 4, 8)  # of the checkpoint interval
HOUR = 3600.0


def lay_out(config: PlanConfig, pools: Mapping[str, Pool], assumed: Assumptions) -> tuple[Sizes, Counted, list[Stage]]:
    """Count the models and lay out the stages."""
    training = TRAINING[config.preset]
    pairs = int(config.pairs)
    sizes = Sizes(
        preset=config.preset,
        pairs=pairs,
        cached="reference" in pools,
        steps=config.steps or max(training.steps, pairs // training.data.global_batch),
        every=config.checkpoint_every or training.checkpoint_every,
        captions_judged=config.captions,
        validation_images=config.validation_images,
    )
    counted = Counted(config.model, config.preset, pairs, round(pairs * assumed["captions_per_pair"]))
    stages: list[Stage] = []
    for name, pool in pools.items():
        if name == "train":
            least = config.min_nodes or pool.nodes
            stage = plan_stages.train(sizes, counted, pool, assumed, least)
            best = best_interval(config, stage)
            if config.checkpoint_every is None and best is not None:
                sizes = replace(sizes, every=min(best, sizes.steps))
                stage = plan_stages.train(sizes, counted, pool, assumed, least)
            stages.append(stage)
        else:
            stages.append(plan_stages.STAGES[name](sizes, counted, pool, assumed))  # type: ignore[index]
        if name == "encode":
            stages.append(plan_stages.captions(counted, pool, assumed))
    return sizes, counted, stages


def follow(config: PlanConfig, stage: Stage) -> Outcome:
    """Simulate a stage several times and return the means.

    Raises:
        UserError: if its nodes fail so often that it would hardly end.
    """
    failing = nodes_of(config, stage)
    work = stage.work
    if isinstance(work, Copies):
        expected = fleet.expected_copies(work, failing)
        simulate = partial(fleet.simulate_copies, work, failing)
    else:
        waits = replace(failing, replacement=0.0) if work.least < failing.nodes else failing
        expected = fleet.expected_training(work, waits)
        simulate = partial(fleet.simulate_training, work, failing)
    if math.isinf(expected):
        raise UserError(
            f"--mtbf-hours {config.mtbf_hours:g}: one of the {failing.nodes} nodes of {stage.name} fails every "
            f"{failing.mtbf / failing.nodes / 60:.3g} minutes, before its work is safe, so the stage would hardly end; "
            "give it fewer or more lasting nodes, or a shorter --checkpoint-every"
        )
    outcome = fleet.repeated(simulate, config.repetitions if math.isfinite(failing.mtbf) else 1, config.seed)
    idle = stage.pool.nodes - stage.busy
    outcome.seconds += stage.staging
    outcome.node_seconds += stage.staging * stage.busy + idle * outcome.seconds
    outcome.spread = [seconds + stage.staging for seconds in outcome.spread]
    return outcome


def nodes_of(config: PlanConfig, stage: Stage) -> Fleet:
    """Return a stage's nodes for the simulation; a node that replaces another one first copies the store."""
    mtbf = math.inf if config.mtbf_hours is None else config.mtbf_hours * HOUR
    return Fleet(stage.busy, mtbf, config.replacement_minutes * 60 + stage.staging)


def best_interval(config: PlanConfig, stage: Stage) -> int | None:
    """Return Young's number of steps between checkpoints, sqrt(2 C M); None where no node fails."""
    work = stage.work
    failing = nodes_of(config, stage)
    assert isinstance(work, Training)
    if not math.isfinite(failing.mtbf):
        return None
    return max(1, round(fleet.best_interval(work.copy, failing.mtbf / failing.nodes) / work.step(failing.nodes)))


def intervals(config: PlanConfig, stage: Stage, price: float | None) -> list[dict[str, Any]]:
    """Return the figures of other checkpoint intervals, Young's among them."""
    work = stage.work
    failing = nodes_of(config, stage)
    assert isinstance(work, Training)
    wanted = {max(1, round(work.every * factor)) for factor in FACTORS}
    young = best_interval(config, stage)
    if young is not None:
        wanted.add(young)
    rows = []
    for every in sorted(each for each in wanted if each <= work.steps):
        changed = replace(work, every=every)
        other = replace(stage, work=changed)
        try:
            outcome = follow(config, other)
        except UserError:  # the interval is too long for these nodes, and the table says so
            outcome = Outcome(seconds=math.inf, node_seconds=math.inf, lost=math.inf, waited=math.inf)
        stepping = every * work.step(failing.nodes)
        held_up = work.steps // every * (changed.cycle(failing.nodes) - stepping - work.judge)
        about = {"every": every, "minutes": stepping / 60, "held_up_hours": held_up / HOUR, "young": every == young}
        rows.append(figures(other, outcome, price) | about)
    return rows


def figures(stage: Stage, outcome: Outcome, price: float | None) -> dict[str, Any]:
    """Return a stage's figures: hours, accelerator-hours, cost, failures and their losses."""
    width = stage.pool.accelerators if isinstance(stage.work, Training) else stage.pool.gpus
    spread = outcome.spread or [outcome.seconds]
    accelerator_hours = outcome.node_seconds * stage.pool.gpus / HOUR
    return {
        "hours": outcome.seconds / HOUR,
        "hours_5": spread[int(0.05 * len(spread))] / HOUR,
        "hours_95": spread[min(len(spread) - 1, int(0.95 * len(spread)))] / HOUR,
        "accelerator_hours": accelerator_hours,
        "cost": None if price is None else accelerator_hours * price,
        "failures": outcome.failures,
        "lost_accelerator_hours": outcome.lost * width / HOUR,
        "waiting_accelerator_hours": outcome.waited * width / HOUR,
    }


def main(config: PlanConfig) -> None:
    """Plan a whole run on machines that fail: hours, cost, lost work and bottleneck of each stage."""
    pools = check(config)
    prices = read_prices(config.price)
    assumed = measured.read(config.measured, config.assume)
    sizes, counted, stages = lay_out(config, pools, assumed)
    rows = []
    for stage in stages:
        row = figures(stage, follow(config, stage), prices.get(stage.pool.card))
        rows.append({"stage": stage.name, "nodes": str(stage.pool), **row, "bottleneck": stage.bottleneck})
    training = next((stage for stage in stages if stage.name == "train"), None)
    other = intervals(config, training, prices.get(training.pool.card)) if training else []
    print(plan_table.show(sizes, counted, stages, rows, other, assumed), flush=True)
    if config.json:
        about = {"config": asdict(config), "stages": rows, "intervals": other}
        noted = {name: asdict(figure) for name, figure in assumed.figures.items()}
        files.write_json(files.resolve(config.json), about | {"figures": noted, "steps": sizes.steps})
