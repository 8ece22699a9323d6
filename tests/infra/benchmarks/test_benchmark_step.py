"""The step benchmark: the small models' proportions, figures by hand, every mode takes a step."""

from __future__ import annotations

from functools import cache
from typing import Literal

import pytest
import torch

from infra.base import counting
from infra.benchmarks import step, step_models
from infra.benchmarks.step_models import Work


@cache
def count(model: str, scale: str) -> Work:
    return step_models.count(step_models.folder_of(model, scale))


@pytest.mark.parametrize(
    ("model", "parameters", "forward", "image"),
    [
        pytest.param("sd15", 859_520_964, 0.803, 1.117, marks=pytest.mark.slow),
        pytest.param("sdxl", 2_567_463_684, 6.761, 4.879, marks=pytest.mark.long),
    ],
)
def test_the_known_counts_of_the_published_models(model: str, parameters: int, forward: float, image: float) -> None:
    assert counting.parameters(counting.empty(step_models.folder_of(model, "full"), "unet")) == parameters
    assert count(model, "full").forward / 1e12 == pytest.approx(forward, abs=5e-4)
    assert count(model, "full").image / 1e12 == pytest.approx(image, abs=5e-4)


@pytest.mark.parametrize(
    "model", [pytest.param("sd15", marks=pytest.mark.slow), pytest.param("sdxl", marks=pytest.mark.long)]
)
def test_the_small_models_share_out_the_work_as_the_true_ones(model: str) -> None:
    full, small = count(model, "full"), count(model, "small")
    assert small.image / small.forward == pytest.approx(full.image / full.forward, rel=0.05)
    assert small.caption / small.forward == pytest.approx(full.caption / full.forward, abs=0.005)


@pytest.mark.parametrize("model", ["zimage", "flux2-klein", "qwen-image"])
@pytest.mark.long  # counts networks of billions of weights; the table of counts holds those of the true sizes
def test_the_small_models_of_today_share_out_the_work_nearly_as_the_true_ones(model: str) -> None:
    full = count(model, "full")
    small = count(model, "small")
    assert small.image / small.forward == pytest.approx(full.image / full.forward, rel=0.15)
    assert small.caption / small.forward == pytest.approx(full.caption / full.forward, abs=0.015)


@pytest.mark.long
def test_the_counted_ratios_at_the_true_sizes() -> None:
    def ratio(model: str, recomputed: bool) -> float:
        told = count(model, "full").per_pair(recomputed)
        return told["inline"] / told["limit"]

    assert ratio("sd15", False) == pytest.approx(1.80, abs=0.005)
    # 1.574 without the text encoders, which are 0.111 TFLOP
    assert ratio("sdxl", False) == pytest.approx(1.574 + 0.111 / (6 * 6.761), abs=1e-3)
    assert ratio("sdxl", True) == pytest.approx(1.43, abs=0.005)


@pytest.mark.long
def test_the_counted_ratio_of_adapters_at_the_true_size() -> None:
    adapters = count("flux2-klein", "full").per_pair(recomputed=False, lora=True)
    assert adapters["inline"] / adapters["cached"] == pytest.approx(1.60, abs=0.005)


def test_work_per_pair_by_hand() -> None:
    told = Work(forward=1.0, image=10.0, caption=100.0).per_pair(recomputed=False)
    assert told == {"inline": 128.0, "batched": 8.0, "cached": 6.0, "limit": 6.0, "encoder": 120.0}
    again = Work(forward=1.0, image=10.0, caption=100.0).per_pair(recomputed=True)
    assert (again["inline"], again["batched"], again["limit"]) == (130.0, 10.0, 8.0)
    # of a LoRA step 2 forward passes, 2 backward ones of a forward pass's cost each, 2 of the reference
    adapters = Work(forward=1.0, image=10.0, caption=100.0).per_pair(recomputed=False, lora=True)
    assert (adapters["inline"], adapters["batched"], adapters["cached"]) == (126.0, 6.0, 4.0)


def test_figures_by_hand() -> None:
    speeds = {"inline": 2.0, "batched": 3.0, "cached": 3.6, "limit": 4.0, "encoder": 9.0}
    work = Work(forward=1e12, image=1e12, caption=0.0)
    told = step.figures(speeds, work, checkpointing=True, peak=100.0)
    assert told["ratio"] == pytest.approx(1.8)
    assert told["limit"] == pytest.approx(2.0)
    assert told["best"] == "cached"
    assert told["counted_ratio"] == pytest.approx(12 / 8)
    assert told["modes"]["cached"]["utilisation"] == pytest.approx(8 * 3.6 / 100)
    assert told["modes"]["cached"]["model_flop_utilisation"] == pytest.approx(6 * 3.6 / 100)
    assert "90.0% of it" in step.show(told)
    assert "utilisation" not in step.figures(speeds, work, False, None)["modes"]["cached"]


@pytest.mark.parametrize(
    ("model", "modes"),
    [
        pytest.param("sd15", (*step.MODES, "limit"), marks=pytest.mark.slow),
        *(pytest.param(model, ("inline",), marks=pytest.mark.long) for model in ("sdxl", "zimage", "qwen-image")),
    ],
)
def test_every_mode_takes_a_step_and_moves_the_policy(
    model: Literal["sd15", "sdxl", "zimage", "qwen-image"], modes: tuple[str, ...]
) -> None:
    lora = model != "sd15"
    config = step.BenchmarkConfig(model=model, micro_batch=1, checkpointing=lora, lora_rank=4 if lora else 0)
    bench = step.Bench(config, torch.device("cpu"))
    held = bench.errors.clone()
    before = torch.nn.utils.parameters_to_vector(bench.policy.parameters()).clone()
    for mode in modes:
        getattr(bench, mode)()
        after = torch.nn.utils.parameters_to_vector(bench.policy.parameters())
        assert not torch.equal(before, after)
        before = after.clone()
    assert torch.equal(held, bench.reference.errors(bench.resident))  # the reference did not move with it
