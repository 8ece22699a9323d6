"""Show a plan in the terminal: totals, a line a stage, a line a checkpoint interval, the assumptions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from infra.base import dry_run
from infra.base.accelerators import ACCELERATORS
from infra.planning.measured import Assumptions
from infra.planning.plan_counts import Counted
from infra.planning.plan_stages import Sizes, Stage
from pipelines.latents.addresses import index_bytes
from training.data.staging import staged_bytes
from training.run import plan as training_plan


def show(
    sizes: Sizes,
    counted: Counted,
    stages: Sequence[Stage],
    rows: Sequence[Mapping[str, Any]],
    other: Sequence[Mapping[str, Any]],
    assumed: Assumptions,
) -> str:
    """Lay the plan out for the terminal."""
    stored = staged_bytes(counted.manifest)
    copying = index_bytes(counted.manifest) / (assumed["bandwidth"] * 1e9)
    visits = sizes.steps * sizes.training.data.global_batch
    head = [
        ("pairs", f"{sizes.pairs:,}, {counted.manifest.counts.prompts:,} captions"),
        ("store", dry_run.gigabytes(stored)),
        ("  its index, copied to each node", f"{dry_run.gigabytes(index_bytes(counted.manifest))}, {copying:,.1f} s"),
        ("checkpoints", f"every {sizes.every:,} steps: train_dpo.py --checkpoint-every {sizes.every}"),
        ("steps", f"{sizes.steps:,} of {sizes.training.data.global_batch:,} pairs, {visits / sizes.pairs:.3g} epochs"),
    ]
    parts = [dry_run.table([*head, *_memory(sizes, counted, stages)]), "", _stage_table(rows)]
    if other:
        parts += ["", "training by steps between checkpoints (* Young's sqrt(2 C M))", _interval_table(other)]
    figures = [(name, f"{one.value:,.4g} {one.unit} ({one.origin})") for name, one in assumed.figures.items()]
    return "\n".join([*parts, "", "assumptions", dry_run.table(figures)])


def _memory(sizes: Sizes, counted: Counted, stages: Sequence[Stage]) -> list[dry_run.Row]:
    pool = next((stage.pool for stage in stages if stage.name == "train"), None)
    if pool is None:
        return []
    held = training_plan.memory(training_plan.layout(sizes.training), counted.network)
    card = ACCELERATORS[pool.card]
    return dry_run.memory_rows([*held, ("activations (estimate)", float(counted.network.activations))], card)[:1]


def _stage_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["stage", "nodes", "hours", "5 to 95 %", "GPU-hours", "cost", "failures", "lost GPU-h", "bottleneck"]
    lines = [[*_cells(row)] for row in rows]
    worst = max(rows, key=lambda row: row["hours"])
    sums = {key: sum(row[key] for row in rows) for key in ("hours", "accelerator_hours", "failures")}
    lost = sum(row["lost_accelerator_hours"] for row in rows)
    costs = [row["cost"] for row in rows]
    cost = "-" if None in costs else f"{sum(costs):,.0f}"
    total = ["all", "", f"{sums['hours']:,.2f}", "", f"{sums['accelerator_hours']:,.1f}", cost]
    lines.append([*total, f"{sums['failures']:,.1f}", f"{lost:,.2f}", f"{worst['stage']}: {worst['bottleneck']}"])
    return _aligned([head, *lines])


def _cells(row: Mapping[str, Any]) -> list[str]:
    between = f"{row['hours_5']:,.2f} to {row['hours_95']:,.2f}"
    cost = "-" if row["cost"] is None else f"{row['cost']:,.0f}"
    first = [row["stage"], row["nodes"], f"{row['hours']:,.2f}", between, f"{row['accelerator_hours']:,.1f}", cost]
    return [*first, f"{row['failures']:,.1f}", f"{row['lost_accelerator_hours']:,.2f}", row["bottleneck"]]


def _interval_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["steps", "minutes", "held up h", "lost GPU-h", "waiting GPU-h", "hours", "GPU-hours", "cost"]
    lines = [head]
    for row in rows:
        hours = "hardly ends" if math.isinf(row["hours"]) else f"{row['hours']:,.2f}"
        cost = "-" if row["cost"] is None else f"{row['cost']:,.0f}"
        each = [
            f"{row['every']:,}{'*' if row['young'] else ''}",
            f"{row['minutes']:,.2f}",
            f"{row['held_up_hours']:,.3f}",
        ]
        each += [f"{row[key]:,.2f}" for key in ("lost_accelerator_hours", "waiting_accelerator_hours")]
        lines.append([*each, hours, f"{row['accelerator_hours']:,.1f}", cost])
    return _aligned(lines)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
