"""What stored latents and cached reference errors make of a step: `infra/benchmarks/step.py`.

One model, one batch size and the same pairs in three modes. *inline* works as both public scripts do: the VAE and the
text encoders run at every step; winner and loser go together through the policy, then through the reference. *batched*
takes latents and embeddings from the loader; *cached* has the reference's errors already. The *limit* is the policy's
forward, backward and update alone, on tensors that lie there. All in turns in one process, without Ray; images are
there decoded. On a GPU also the utilisation of its peak, of all that is computed and of the model alone (without what
checkpointing recomputes).
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from infra.base import accelerators, cli, files
from infra.base.cpu import keep_freed_memory
from infra.base.places import PathText
from infra.benchmarks import step_models
from infra.benchmarks.measure import in_turns, median
from infra.benchmarks.random_store import random_pairs
from pipelines.latents.kinds import kind_of
from training.backbones.backbone import open_backbone
from training.backbones.schedule_config import EVERY
from training.data.applied_labels import Labelled
from training.data.loader import Share, prefetch, step_batches
from training.layout import sharding
from training.layout.sharding_config import ShardingConfig
from training.method import forward, objectives
from training.method.batch import Batch
from training.method.optimizer_config import OptimizerConfig
from training.method.optimizers import make_optimizer
from training.method.policy import AdaptersOff, add_adapters, trained
from training.method.policy_config import PolicyConfig

MODES = ("inline", "batched", "cached")
OBJECTIVE = objectives.ObjectiveConfig()
STORED = 8  # batches of pairs in the store


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    model: Literal["sd15", "sdxl", "zimage", "flux2-klein", "qwen-image"] = "sd15"
    scale: Literal["small", "full"] = "small"
    """The true shapes need a GPU; the small ones share out the work as those do."""
    micro_batch: int = 4
    """Pairs per step."""
    checkpointing: bool = False
    """Recompute the policy's activations in the backward pass."""
    lora_rank: int = 0
    """Train adapters of this rank beside frozen weights; 0: train the weights."""
    compile: bool = False
    """Compile the network, as --compile of the trainer does."""
    steps: int = 2
    """Steps per turn."""
    rounds: int = 5
    json: PathText | None = None
    """File for the figures."""


class Bench:
    """The models and the pairs, and a step in each mode."""

    def __init__(self, config: BenchmarkConfig, device: torch.device) -> None:
        self.device = device
        self.autocast = torch.bfloat16 if device.type == "cuda" else torch.float32
        folder = step_models.folder_of(config.model, config.scale)
        torch.manual_seed(0)
        self.backbone = open_backbone(folder, EVERY)
        self.policy, self.frozen = step_models.load(folder, device, self.autocast)
        layout = ShardingConfig(activation_checkpointing=config.checkpointing, compile=config.compile)
        self.reference = self._reference(config.lora_rank, layout)
        sharding.prepare(layout, self.policy, self.autocast, device, 1)
        self.optimizer = make_optimizer(OptimizerConfig(), trained(self.policy).values(), device)
        self.pairs = config.micro_batch
        side = self.frozen.side
        self.images = torch.randint(0, 256, (2, self.pairs, 3, side, side), dtype=torch.uint8)
        self.tokens = torch.randint(0, 500, (self.pairs, self.frozen.tokens))
        with torch.no_grad():
            shape = self.frozen.encode_images(self._pixels()[:1]).shape[1:]
            embeddings = self.frozen.encode_captions(self.tokens[:1].to(device))
        shapes = {name: tuple(value.shape[1:]) for name, value in embeddings.items()}
        self.data = random_pairs(STORED * self.pairs, tuple(shape), shapes)
        self.feed = feed(self.data, self.pairs, self.backbone.timestep, device)
        self.resident = next(self.feed).to(device)
        self.errors = self.reference.errors(self.resident)
        self.waited = 0.0  # seconds for batches

    def _reference(self, lora_rank: int, layout: ShardingConfig) -> forward.Reference:
        """Make the reference: the policy with its adapters off, or a frozen copy of a policy that has none."""
        if lora_rank:
            add_adapters(self.policy, PolicyConfig(lora_rank=lora_rank), 0, kind_of(self.backbone.folder).lora)
            return AdaptersOff(self.backbone, self.policy, self.autocast)
        frozen = copy.deepcopy(self.policy).requires_grad_(False)
        sharding.prepare(layout, frozen, self.autocast, self.device, 1)
        return forward.NetworkReference(self.backbone, frozen, self.autocast)

    def _pixels(self) -> torch.Tensor:
        return self.images.to(self.device, non_blocking=True).flatten(0, 1).float() / 127.5 - 1

    def _next(self) -> Batch:
        began = time.perf_counter()
        batch = next(self.feed)
        self.waited += time.perf_counter() - began
        return batch.to(self.device)

    def encode(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Run the VAE on both slots and the text encoders."""
        latents = self.frozen.encode_images(self._pixels()).unflatten(0, (2, -1))
        return latents, self.frozen.encode_captions(self.tokens.to(self.device))

    def inline(self) -> None:
        """Encode, then run both slots in one pass of each network."""
        latents, conditioning = self.encode()
        noise = torch.randn(latents.shape[1:], device=self.device)
        timesteps = torch.randint(0, self.backbone.timesteps, (self.pairs,), device=self.device)
        batch = Batch(
            pair_ids=self.resident.pair_ids,
            latents=latents,
            noise=noise,
            timesteps=timesteps,
            conditioning=conditioning,
            preferred=self.resident.preferred,
        )
        self._both_networks(batch)

    def batched(self) -> None:
        """Take a batch from the loader and run both slots in one pass of each network."""
        self._both_networks(self._next())

    def cached(self) -> None:
        """Take a batch from the loader, with the reference's errors already computed."""
        batch = self._next()
        self._update(forward.pair_errors(self.backbone, self.policy, batch, self.autocast), self.errors)

    def limit(self) -> None:
        """Run forward, backward and update of the policy on tensors that are already on the device."""
        self._update(forward.pair_errors(self.backbone, self.policy, self.resident, self.autocast), self.errors)

    def encoder(self) -> None:
        """Run the frozen networks alone."""
        self.encode()

    def vae(self) -> None:
        """Run the VAE on both slots."""
        self.frozen.encode_images(self._pixels())

    def _both_networks(self, batch: Batch) -> None:
        reference = self.reference.errors(batch)
        self._update(forward.pair_errors(self.backbone, self.policy, batch, self.autocast), reference)

    def _update(self, policy: torch.Tensor, reference: torch.Tensor) -> None:
        objectives.loss(OBJECTIVE, policy, reference).mean().backward()
        torch.nn.utils.clip_grad_norm_(trained(self.policy).values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def feed(data: Labelled, pairs: int, timestep: Callable[[float], int], device: torch.device) -> Iterator[Batch]:
    """Yield batches as the training loop takes them: made ahead on a thread where a GPU computes."""
    share = Share(pairs, pairs)

    def make(step: int) -> Batch:
        return step_batches(data, step, share, 0, timestep, 0.2)[0]

    made = map(make, range(10**9))
    return prefetch(made) if device.type == "cuda" else made


def throughput(step: Callable[[], None], steps: int, pairs: int, device: torch.device) -> float:
    """Take some steps and return pairs/s."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return steps * pairs / (time.perf_counter() - started)


def figures(
    speeds: Mapping[str, float],
    work: step_models.Work,
    checkpointing: bool,
    peak: float | None,
    lora: bool = False,
) -> dict[str, Any]:
    """Work out the figures from pairs/s of each mode.

    Args:
        lora: whether adapters alone are trained.
        peak: of the accelerator in TFLOP/s; None where it is not known, and then there is no utilisation.

    Returns:
        ratio (inline's time over the best mode's), limit (inline's over that of the policy alone), both counted in
        FLOPs too, and by mode pairs/s and TFLOP per pair.
    """
    counted = work.per_pair(checkpointing, lora)
    plain = work.per_pair(False, lora)
    best = max(MODES, key=lambda mode: speeds[mode])
    modes: dict[str, dict[str, float]] = {}
    for mode, speed in speeds.items():
        modes[mode] = {"pairs_per_second": speed, "tflop_per_pair": counted[mode] / 1e12}
        if peak is not None:
            modes[mode]["utilisation"] = counted[mode] * speed / (peak * 1e12)
            modes[mode]["model_flop_utilisation"] = plain[mode] * speed / (peak * 1e12)
    return {
        "ratio": speeds[best] / speeds["inline"],
        "limit": speeds["limit"] / speeds["inline"],
        "best": best,
        "counted_ratio": counted["inline"] / counted["limit"],
        "modes": modes,
    }


def show(measured: Mapping[str, Any]) -> str:
    """Lay the figures out for the terminal."""
    inline = measured["modes"]["inline"]["pairs_per_second"]
    lines = [f"{'mode':<8}  {'pairs/s':>9}  {'x inline':>8}  {'TFLOP/pair':>10}  {'of peak':>7}  {'model':>6}"]
    for mode, one in measured["modes"].items():
        shares = [f"{one[name]:.3f}" if name in one else "-" for name in ("utilisation", "model_flop_utilisation")]
        speed = one["pairs_per_second"]
        lines.append(
            f"{mode:<8}  {speed:>9.3f}  {speed / inline:>8.3f}  {one['tflop_per_pair']:>10.5f}  "
            f"{shares[0]:>7}  {shares[1]:>6}"
        )
    share = measured["ratio"] / measured["limit"]
    return "\n".join(
        [
            *lines,
            f"ratio {measured['ratio']:.3f} ({measured['best']} over inline), limit {measured['limit']:.3f}: "
            f"{share:.1%} of it; FLOPs counted {measured['counted_ratio']:.3f}",
        ]
    )


def main(config: BenchmarkConfig) -> None:
    """Measure a training step in three modes against its limit."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
        keep_freed_memory()
    work = step_models.count(step_models.folder_of(config.model, config.scale))
    bench = Bench(config, device)
    ways = {
        mode: partial(throughput, getattr(bench, mode), config.steps, config.micro_batch, device)
        for mode in (*MODES, "limit", "encoder")
    }
    samples = in_turns(ways, config.rounds, "pairs/s")
    name = torch.cuda.get_device_name() if device.type == "cuda" else ""
    known = accelerators.of_device(name)
    speeds = {mode: median(values) for mode, values in samples.items()}
    measured = figures(speeds, work, config.checkpointing, known.peak if known else None, bool(config.lora_rank))
    print(show(measured), flush=True)
    if config.json:
        facts = {"device": known.title if known else name or "cpu", "samples": samples, "config": asdict(config)}
        Path(files.resolve(config.json)).write_text(json.dumps(measured | facts, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
