"""What is told to Prometheus: counts by hand, and few series from many reasons.

A real scrape of a cluster is in tests/pipelines/latents/test_safety.py.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from infra.base import metrics
from infra.base.files import ROOT
from infra.base.metrics import Sample
from pipelines.engine import on_ray
from pipelines.engine.jobs import Step
from training.run import assembly, loop
from training.settings.config import TrainConfig


def test_encoded_rows_are_counted_by_what_became_of_them() -> None:
    rows = pa.table(
        {
            "status": ["kept", "kept", "tie", "quarantined", "quarantined"],
            "stage": [None, None, None, "image", "image"],
            "reason": [None, None, None, "image promises 9x9 pixels", "image promises 80x80 pixels"],
            "latents_0": [1] * 5,
            "latents_1": [1] * 5,
        }
    )
    assert metrics.encoded(rows) == [
        Sample("dpo_pairs", 2, {"status": "kept"}),
        Sample("dpo_pairs", 1, {"status": "tie"}),
        Sample("dpo_pairs", 2, {"status": "quarantined"}),
        Sample("dpo_quarantined", 2, {"stage": "image", "reason": "image promises N pixels"}),
        Sample("dpo_images", 4),
    ]


def test_scored_pairs_are_counted_by_scorer() -> None:
    rows = pa.table({"score_0:clip": [0.5, None, 0.1], "score_1:clip": [0.5, None, 0.1], "pair_id": [1, 2, 3]})
    assert metrics.scored(rows) == [
        Sample("dpo_scored_pairs", 2, {"scorer": "clip"}),
        Sample("dpo_unscored_pairs", 1, {"scorer": "clip"}),
        Sample("dpo_scored_batches", 1, {"scorer": "clip"}),
    ]


@pytest.mark.parametrize(
    ("reason", "reason_class"),
    [
        ("label_0 is 2.0, not 0, 0.5 or 1", "label_0 is not usable"),
        ("label_0 is nan, not 0, 0.5 or 1", "label_0 is not usable"),
        ("label_0 is null", "label_0 is null"),
        ("label_1 my secret contradicts label_0 1.0", "label_1 contradicts label_0"),
        ("image cannot be decoded: OSError", "image cannot be decoded: OSError"),
        ("image promises 9000x9000 pixels, over the limit of 64000000", "image promises N pixels, over the limit of N"),
        ("latents are not finite; SDXL's own VAE overflows", "latents are not finite"),
        ("x" * 200, "x" * 60),
    ],
)
def test_a_reason_s_class_holds_nothing_of_its_row(reason: str, reason_class: str) -> None:
    assert metrics.reason_class(reason) == reason_class


class Doubled:
    """A step that returns each row twice."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Repeat the rows."""
        return pa.concat_tables([batch] * self.times)


def test_a_measured_step_computes_the_same_and_is_counted_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    samples: list[Sample] = []
    monkeypatch.setattr(on_ray, "export", samples.extend)
    made = on_ray._measured(Step(function=Doubled), "rows", lambda out: [Sample("dpo_images", out.num_rows)])
    assert made.__name__ == "Doubled"
    assert made(times=2)(pa.table({"a": [1, 2, 3]}))["a"].to_pylist() == [1, 2, 3, 1, 2, 3]
    labels = {"job": "rows", "step": "Doubled"}
    assert [(one.name, one.labels) for one in samples] == [
        ("dpo_rows", labels),
        ("dpo_batch_seconds", labels),
        ("dpo_images", {}),
    ]
    assert (samples[0].value, samples[2].value) == (6, 6)
    assert samples[1].value >= 0


def test_each_name_is_explained_to_the_operator() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    assert not [name for name in metrics.METRICS if f"`{name}`" not in text]


@pytest.mark.slow
def test_a_run_says_each_step_and_each_complete_checkpoint(config: TrainConfig) -> None:
    steps: list[dict[str, Any]] = []
    kept: list[dict[str, float]] = []
    loop.train(config, assembly.Rank(on_step=steps.append, on_checkpoint=kept.append))
    assert [note["step"] for note in kept] == [2, 4, 6]
    assert all(0 < note["held_up_seconds"] <= note["seconds"] for note in kept)
    samples = {sample.name: sample.value for sample in metrics.trained(steps[-1], "run")}
    assert samples["dpo_train_step"] == 6
    assert samples["dpo_train_pairs"] == pytest.approx(config.data.global_batch)
    assert {sample.name for sample in metrics.kept(kept[-1], "run")} | set(samples) <= set(metrics.METRICS)
