"""Model-FLOP utilisation: how much of the accelerators' peak the training uses.

The FLOPs are those that the objective asks for: forward passes of policy and reference, and the backward pass. What a
run computes again to save memory is not counted (Chowdhery et al. 2022, PaLM, App. B).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from infra.base import accelerators, counting
from pipelines.latents import store
from training.backbones.backbone import Backbone
from training.run import network_count, plan
from training.settings.config import TrainConfig


def most_pairs_per_second(
    config: TrainConfig, backbone: Backbone, manifest: store.Manifest, device: torch.device, workers: int
) -> float | None:
    """Return the pairs/s at which all workers' accelerators would compute at their peak; None for unknown ones."""
    if device.type != "cuda":
        return None
    card = accelerators.of_device(torch.cuda.get_device_name(device))
    return None if card is None else workers * rate(card.peak, config, flops_of_pair(config, backbone, manifest))


def rate(peak: float, config: TrainConfig, flops: float) -> float:
    """Return pairs/s of one accelerator at its peak.

    Args:
        peak: TFLOP/s in bfloat16. In float32 products take TF32, at half of that.
        flops: of a pair's training.
    """
    return peak * 1e12 * (0.5 if config.precision == "float32" else 1.0) / flops


def flops_of_pair(config: TrainConfig, backbone: Backbone, manifest: store.Manifest) -> float:
    """Count the FLOPs of one pair's training, on torch's meta device."""
    network = counting.empty(config.start.folder(), backbone.network_folder)
    largest = max(manifest.shapes, key=math.prod)
    with torch.no_grad():
        forward = counting.flops(network_count.forward_pass(backbone, network, manifest, largest))
    laid_out = replace(plan.layout(config), recomputed=False, first_pass=False)
    return sum(work for _, work in plan.pair_work(laid_out, forward))
