"""The metrics that Prometheus reads: their names and meanings, and the counts that a finished batch gives.

Ray exports them (pipelines/engine/on_ray.py), with ray_ before each name and _total after a counter's. Counters count
work: a block that is done again after a kill counts twice. A store's manifest counts each row once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

Kind = Literal["counter", "gauge", "histogram"]
NUMBER = re.compile(r"(?<!\w)-?\d[\d.,x]*")
CLASS_LENGTH = 60  # characters of a reason's class; values of a label must stay few


@dataclass(frozen=True)
class Metric:
    """One metric: its kind, its meaning, and its labels."""

    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()


METRICS: dict[str, Metric] = {
    "dpo_rows": Metric("counter", "Rows out of a batch stage's step", ("job", "step")),
    "dpo_batch_seconds": Metric("histogram", "Seconds of a step's batch", ("job", "step")),
    "dpo_pairs": Metric("counter", "Pairs out of the encoder, by what became of them", ("status",)),
    "dpo_quarantined": Metric("counter", "Quarantined pairs, by stage and class of reason", ("stage", "reason")),
    "dpo_images": Metric("counter", "Images that became latents"),
    "dpo_scored_pairs": Metric("counter", "Pairs with a score", ("scorer",)),
    "dpo_unscored_pairs": Metric("counter", "Pairs without a score", ("scorer",)),
    "dpo_scored_batches": Metric("counter", "Batches scored", ("scorer",)),
    "dpo_train_step": Metric("gauge", "Last step taken", ("run",)),
    "dpo_train_loss": Metric("gauge", "Loss of the last step", ("run",)),
    "dpo_train_pairs_per_second": Metric("gauge", "Pairs a second in the last step", ("run",)),
    "dpo_train_pairs": Metric("counter", "Pairs trained on", ("run",)),
    "dpo_train_step_seconds": Metric("counter", "Seconds spent in steps", ("run",)),
    "dpo_train_data_wait_seconds": Metric("counter", "Seconds of these that steps waited for data", ("run",)),
    "dpo_checkpoint_step": Metric("gauge", "Last complete checkpoint", ("run",)),
    "dpo_checkpoint_held_up_seconds": Metric("gauge", "Seconds that the last checkpoint held training up", ("run",)),
    "dpo_checkpoint_seconds": Metric("gauge", "Seconds until the last checkpoint was complete", ("run",)),
}


@dataclass(frozen=True)
class Sample:
    """A value for a metric: added to a counter, set on a gauge, observed by a histogram."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


def encoded(rows: pa.Table) -> list[Sample]:
    """Count what became of encoded rows: by status, the quarantined by reason, and the images."""
    statuses = Counter(rows["status"].to_pylist())
    samples = [Sample("dpo_pairs", count, {"status": status}) for status, count in statuses.items()]
    slots = sum(name.startswith("latents_") for name in rows.column_names)
    return [*samples, *_quarantined(rows), Sample("dpo_images", statuses["kept"] * slots)]


def encoded_images(rows: pa.Table) -> list[Sample]:
    """Count the encoded images of groups, mirrored ones too, and the quarantined by reason."""
    orientations = sum(name.startswith("latents") for name in rows.column_names)
    kept = rows["status"].to_pylist().count("kept")
    return [*_quarantined(rows), Sample("dpo_images", kept * orientations)]


def _quarantined(rows: pa.Table) -> list[Sample]:
    reasons = zip(rows["stage"].to_pylist(), rows["reason"].to_pylist(), strict=True)
    refused = Counter((stage, reason_class(reason)) for stage, reason in reasons if stage is not None)
    return [Sample("dpo_quarantined", n, {"stage": stage, "reason": why}) for (stage, why), n in refused.items()]


def scored(rows: pa.Table) -> list[Sample]:
    """Count scored pairs by scorer, and the batch."""
    names = [name.partition(":")[2] for name in rows.column_names if name.startswith("score_0:")]
    samples = []
    for name in names:
        missing = rows[f"score_0:{name}"].null_count
        labels = {"scorer": name}
        samples.append(Sample("dpo_scored_pairs", rows.num_rows - missing, labels))
        samples.append(Sample("dpo_unscored_pairs", missing, labels))
        samples.append(Sample("dpo_scored_batches", 1, labels))
    return samples


def trained(row: Mapping[str, float], run: str) -> list[Sample]:
    """Return the samples of one line of the step log (training/run/journal.py)."""
    values = {
        "dpo_train_step": row["step"],
        "dpo_train_loss": row["loss"],
        "dpo_train_pairs_per_second": row["pairs_per_second"],
        "dpo_train_pairs": row["pairs_per_second"] * row["seconds"],
        "dpo_train_step_seconds": row["seconds"],
        "dpo_train_data_wait_seconds": row["data_wait_seconds"],
    }
    return [Sample(name, value, {"run": run}) for name, value in values.items()]


def kept(row: Mapping[str, float], run: str) -> list[Sample]:
    """Return a complete checkpoint's samples: its step, the seconds it delayed training, and those until complete."""
    values = {
        "dpo_checkpoint_step": row["step"],
        "dpo_checkpoint_held_up_seconds": row["held_up_seconds"],
        "dpo_checkpoint_seconds": row["seconds"],
    }
    return [Sample(name, value, {"run": run}) for name, value in values.items()]


def reason_class(reason: str) -> str:
    """Return a reason without what it quotes of its row, so that a bad source makes few series, not millions."""
    head, _, _ = reason.partition("; ")
    if head.startswith("label_1 "):  # what follows is the row's own value
        head = "label_1 contradicts label_0"
    elif head.startswith("label_0 ") and head != "label_0 is null":
        head = "label_0 is not usable"
    return NUMBER.sub("N", head)[:CLASS_LENGTH]
