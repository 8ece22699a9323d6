"""What a whole run takes on machines that fail: `python infra/plan.py --preset sd15 --mtbf-hours 500 --price l4=0.8`.

All stages, one after the other, on the nodes given to each: time, cost, what failures lose, where the bottleneck sits;
and for training what another checkpoint interval would change. Nothing is started and no weight is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from infra.base import cli, files
from infra.base.errors import UserError
from infra.planning import fleet, measured, plan_stages, plan_table
from infra.planning.fleet import Copies, Fleet, Outcome, Training
from infra.planning.measured import Assumptions
from infra.planning.plan_counts import Counted
from infra.planning.plan_flags import PRESETS, PlanConfig, check, read_prices
from infra.planning.plan_stages import Pool, Sizes, Stage
from training.settings.presets import PRESETS as TRAINING

FACTORS = (0.125, 0.25, 0.5, 1, 2, 4, 8)  # of the checkpoint interval
HOUR = 3600.0


def lay_out(config: PlanConfig, pools: Mapping[str, Pool], told: Assumptions) -> tuple[Sizes, Counted, list[Stage]]:
    """Count the models and lay out the stages."""
    training, pairs = TRAINING[config.preset], int(config.pairs)
    sizes = Sizes(
        preset=config.preset,
        pairs=pairs,
        cached="reference" in pools,
        steps=config.steps or max(training.steps, pairs // training.data.global_batch),
        every=config.checkpoint_every or training.checkpoint_every,
        captions_judged=config.captions,
        validation_images=config.validation_images,
    )
    counted = Counted(config.model, config.preset, pairs, round(pairs * told["captions_per_pair"]))
    stages: list[Stage] = []
    for name, pool in pools.items():
        if name == "train":
            least = config.min_nodes or pool.nodes
            stages.append(plan_stages.train(sizes, counted, pool, told, least))
        else:
            stages.append(plan_stages.STAGES[name](sizes, counted, pool, told))  # type: ignore[index]
        if name == "encode":
            stages.append(plan_stages.captions(counted, pool, told))
    return sizes, counted, stages


def follow(config: PlanConfig, stage: Stage) -> Outcome:
    """Simulate a stage, repeatedly, and return the means.

    Raises:
        UserError: if its nodes fail so often that it would hardly end.
    """
    failing = nodes_of(config, stage)
    work = stage.work
    if isinstance(work, Copies):
        expected, simulate = fleet.expected_copies(work, failing), partial(fleet.simulate_copies, work, failing)
    else:
        waits = replace(failing, replacement=0.0) if work.least < failing.nodes else failing
        expected, simulate = fleet.expected_training(work, waits), partial(fleet.simulate_training, work, failing)
    if math.isinf(expected):
        raise UserError(
            f"--mtbf-hours {config.mtbf_hours:g}: one of the {failing.nodes} nodes of {stage.name} fails every "
            f"{failing.mtbf / failing.nodes / 60:.3g} minutes, before its work is safe: it would hardly end"
        )
    told = fleet.repeated(simulate, config.repetitions if math.isfinite(failing.mtbf) else 1, config.seed)
    idle = stage.pool.nodes - stage.busy
    told.seconds += stage.staging
    told.node_seconds += stage.staging * stage.busy + idle * told.seconds
    told.spread = [seconds + stage.staging for seconds in told.spread]
    return told


def nodes_of(config: PlanConfig, stage: Stage) -> Fleet:
    """Return a stage's nodes as the simulation knows them; a successor of a training node copies the store first."""
    mtbf = math.inf if config.mtbf_hours is None else config.mtbf_hours * HOUR
    return Fleet(stage.busy, mtbf, config.replacement_minutes * 60 + stage.staging)


def intervals(config: PlanConfig, stage: Stage, price: float | None) -> list[dict[str, Any]]:
    """Return what other checkpoint intervals come to, Young's among them."""
    work, failing = stage.work, nodes_of(config, stage)
    assert isinstance(work, Training)
    wanted = {max(1, round(work.every * factor)) for factor in FACTORS}
    young = None
    if math.isfinite(failing.mtbf):
        young = max(1, round(fleet.best_interval(work.copy, failing.mtbf / failing.nodes) / work.step(failing.nodes)))
        wanted.add(young)
    rows = []
    for every in sorted(each for each in wanted if each <= work.steps):
        changed = replace(work, every=every)
        other = replace(stage, work=changed)
        try:
            told = follow(config, other)
        except UserError:  # an interval too long for these nodes; the table says so
            told = Outcome(seconds=math.inf, node_seconds=math.inf, lost=math.inf, waited=math.inf)
        stepping = every * work.step(failing.nodes)
        held_up = work.steps // every * (changed.cycle(failing.nodes) - stepping - work.judge)
        about = {"every": every, "minutes": stepping / 60, "held_up_hours": held_up / HOUR, "young": every == young}
        rows.append(figures(other, told, price) | about)
    return rows


def figures(stage: Stage, told: Outcome, price: float | None) -> dict[str, Any]:
    """Return a stage's figures: hours, accelerator-hours, cost, failures and what they lose."""
    width = stage.pool.accelerators if isinstance(stage.work, Training) else stage.pool.gpus
    spread = told.spread or [told.seconds]
    accelerator_hours = told.node_seconds * stage.pool.gpus / HOUR
    return {
        "hours": told.seconds / HOUR,
        "hours_5": spread[int(0.05 * len(spread))] / HOUR,
        "hours_95": spread[min(len(spread) - 1, int(0.95 * len(spread)))] / HOUR,
        "accelerator_hours": accelerator_hours,
        "cost": None if price is None else accelerator_hours * price,
        "failures": told.failures,
        "lost_accelerator_hours": told.lost * width / HOUR,
        "waiting_accelerator_hours": told.waited * width / HOUR,
    }


def main(config: PlanConfig) -> None:
    """Plan a whole run on machines that fail: hours, cost, lost work and bottleneck of each stage."""
    pools, prices = check(config), read_prices(config.price)
    told = measured.read(config.measured, config.assume)
    sizes, counted, stages = lay_out(config, pools, told)
    rows = []
    for stage in stages:
        row = figures(stage, follow(config, stage), prices.get(stage.pool.card))
        rows.append({"stage": stage.name, "nodes": str(stage.pool), **row, "bottleneck": stage.bottleneck})
    training = next((stage for stage in stages if stage.name == "train"), None)
    other = intervals(config, training, prices.get(training.pool.card)) if training else []
    print(plan_table.show(sizes, counted, stages, rows, other, told), flush=True)
    if config.json:
        about = {"config": asdict(config), "stages": rows, "intervals": other}
        noted = {name: asdict(figure) for name, figure in told.figures.items()}
        files.write_json(files.resolve(config.json), about | {"figures": noted, "steps": sizes.steps})


if __name__ == "__main__":
    cli.run(main, PlanConfig, PRESETS)
