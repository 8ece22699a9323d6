"""A run's page: health by hand, images by their files, settings escaped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from support.pages import EVIL, Page

from training.method.objective_config import ObjectiveConfig
from training.run import health, run_page
from training.settings.config import DataConfig, TrainConfig

CONFIG = TrainConfig(steps=40, data=DataConfig(global_batch=8))


def row(step: int, **changed: Any) -> dict[str, Any]:
    errors = {f"{who}_error_q{quarter}": 0.5 for who in ("policy", "reference") for quarter in (1, 2, 3, 4)}
    values = {"loss": 0.6, "accuracy": 0.5, "gradient_norm": 0.1, "pairs_per_second": 4.0, "seconds": 2.0}
    return {"step": step, **errors, **values, **changed}


def test_health_by_hand() -> None:
    steps = [row(1, loss=0.5, gradient_norm=3.0), row(2, loss=0.7)]
    assessments = [{"step": 1, "held_out_accuracy": 0.75}, {"step": 2, "held_out_accuracy": 0.5, "held_out_pairs": 8}]
    assert health.describe(CONFIG, steps, assessments, pairs=8) == [
        "The mean loss is 0.6000 over the last 2 steps.",
        "The policy’s error is 1.00 times the reference’s. That is healthy.",
        "Held-out accuracy is 0.500 of 8 pairs at step 2; 0.5 is chance. It was 0.750 at step 1.",
        "The gradient was longer than 1, and so was shortened, in 1 of 2 steps.",
        "Each of the 8 pairs was seen 2.0 times.",  # 2 steps of 8 pairs
    ]


def test_a_policy_that_left_its_reference_is_worth_a_look() -> None:
    far = {f"policy_error_q{quarter}": 0.75 for quarter in (1, 2, 3, 4)}
    said = health.describe(CONFIG, [row(1, **far)], [], pairs=80)
    assert "The policy’s error is 1.50 times the reference’s. Look at the images: they may be falling apart." in said
    assert "No pairs are held out, so nothing here shows whether the policy learns by heart." in said
    assert said[-1] == "10% of the 80 pairs were seen, none of them twice."


def test_an_objective_without_a_reference_has_no_ratio() -> None:
    lone = {f"reference_error_q{quarter}": None for quarter in (1, 2, 3, 4)}
    assert not any("reference" in sentence for sentence in health.describe(CONFIG, [row(1, **lone)], [], pairs=8))


def test_a_beta_found_at_each_step_is_named_so(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row(1)) + "\n")
    config = replace(CONFIG, output=str(tmp_path), objective=ObjectiveConfig(beta="auto"))
    run_page.write(config, tmp_path, 8)
    assert "β auto" in Page((tmp_path / "index.html").read_text()).text


def test_the_page_shows_health_curves_and_images(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row(step)) + "\n" for step in range(1, 21)))
    (tmp_path / "samples").mkdir()
    for name in ("sample-0000000", "sample-0000020", "step-0000020"):
        Image.new("RGB", (4, 4)).save(tmp_path / "samples" / f"{name}.png")
    run_page.write(replace(CONFIG, output=str(tmp_path), model=EVIL), tmp_path, 8)
    html = (tmp_path / "index.html").read_text()
    page = Page(html)
    assert "step 20 of 40" in page.text
    assert EVIL in page.text
    images = [f"samples/{name}.png" for name in ("sample-0000000", "sample-0000020", "step-0000020")]
    assert [name for name in page.loaded if name.endswith(".png")] == [name for name in images for _ in range(2)]
    assert "before training" in page.text
    assert html.count("<svg") == 3  # accuracy, error ratio and loss
    assert "training took 40 s" in " ".join(page.text.split())
    assert "<script" not in html


def test_many_grids_are_thinned_to_the_first_the_last_and_some_between(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for step in range(11):
        (tmp_path / "samples" / f"sample-{step:07d}.png").touch()
    assert [grid["step"] for grid in run_page.grids(tmp_path, "sample")] == [0, 2, 4, 6, 8, 10]


def test_before_the_first_step_there_is_nothing_to_say() -> None:
    assert health.describe(CONFIG, [], [], pairs=8) == ["No step is taken yet."]
