"""What a GPU makes of training and encoding: `python infra/benchmarks/gpu.py --json gpu.json`.

SD1.5 at 512 px and SDXL at 1024 px with random weights: the network itself and LoRA, the reference live and cached,
compiled and not, each against the authors' way (everything computed in the step) in the same run, and both VAEs alone.
It needs neither Ray nor a network. It begins no case that the time left would not finish, and names those left out.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from infra.base import accelerators, cli, files
from infra.base.cpu import keep_freed_memory
from infra.base.errors import UserError
from infra.base.places import PathText
from infra.benchmarks import step, step_models
from training.layout.sharding import check_compiler
from training.layout.sharding_config import ShardingConfig

NEEDED = ("diffusers", "transformers", "peft", "numpy", "pyarrow", "PIL", "tyro", "yaml")
PAIRS = {"sd15": 16, "sdxl": 4}  # to begin with; halved where they do not fit
RANK = 16
COMPILED = " compiled"
WARM = 2  # steps before those that are measured
COMPILING_S = 120.0  # that a first compiled step may take


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    steps: int = 6
    """Steps measured in each mode, after two that are not."""
    minutes: float = 8.5
    """Time for everything."""
    rehearse: bool = False
    """Run small shapes on the CPU, to see that all works."""
    json: PathText | None = None
    """File for the figures, written after each case."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to train one model, and the modes that are measured of it."""

    model: Literal["sd15", "sdxl"]
    lora: bool
    compiled: bool

    @property
    def name(self) -> str:
        """Name the case in tables."""
        return f"{self.model} {'lora' if self.lora else 'full'}{COMPILED if self.compiled else ''}"

    @property
    def modes(self) -> tuple[str, ...]:
        """Return the modes: the authors' way is not compiled."""
        return ("batched", "cached") if self.compiled else step.MODES


# The figures that the aims name come first.
CASES = [
    Case(model=model, lora=lora, compiled=compiled)
    for compiled in (False, True)
    for lora in (False, True)
    for model in ("sd15", "sdxl")
]


def lacking(rehearse: bool) -> str | None:
    """Say in one sentence what this machine lacks, or None."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        return f"this benchmark needs the packages {', '.join(absent)}; docs/performance.md lists its wheels"
    if not torch.cuda.is_available() and not rehearse:
        return "torch sees no GPU; --rehearse runs small shapes on the CPU"
    try:
        check_compiler(ShardingConfig(compile=True))
    except UserError as error:
        return str(error)
    return None


def measure(case: Case, config: BenchmarkConfig, device: torch.device) -> dict[str, Any]:
    """Measure a case with the most pairs a step, from PAIRS downwards by halves, that fit into the GPU's memory.

    Returns:
        pairs (of a step, 0 if not even one fits), and by mode pairs_per_second, data_wait (share of the time) and
        peak_bytes (of the GPU's memory); vae has images_per_second.
    """
    pairs = 1 if config.rehearse else PAIRS[case.model]
    while pairs:
        try:
            return {"pairs": pairs, **_measure(case, config, device, pairs)}
        except torch.OutOfMemoryError:
            pairs //= 2
            _free(device)
    return {"pairs": 0}


def _measure(case: Case, config: BenchmarkConfig, device: torch.device, pairs: int) -> dict[str, Any]:
    settings = step.BenchmarkConfig(
        model=case.model,
        scale="small" if config.rehearse else "full",
        micro_batch=pairs,
        lora_rank=RANK if case.lora else 0,
        compile=case.compiled,
    )
    bench = step.Bench(settings, device)
    modes = {mode: _measure_mode(bench, mode, config.steps, device) for mode in case.modes}
    if not case.compiled:
        modes["vae"] = {"images_per_second": 2 * pairs / _seconds(bench.vae, config.steps, device)}
    return {"modes": modes}


def _measure_mode(bench: step.Bench, mode: str, steps: int, device: torch.device) -> dict[str, float]:
    run = getattr(bench, mode)
    bench.waited = 0.0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = _seconds(run, steps, device)
    waited = bench.waited / (steps + WARM)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {"pairs_per_second": bench.pairs / seconds, "data_wait": waited / seconds, "peak_bytes": peak}


def _seconds(run: Callable[[], None], steps: int, device: torch.device) -> float:
    """Return the seconds of a step, after WARM that compile and fill caches."""
    for _ in range(WARM):
        run()
    _wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        run()
    _wait(device)
    return (time.perf_counter() - started) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _free(device: torch.device) -> None:
    gc.collect()
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def add_ratios(
    case: Case, measured: dict[str, Any], inline: float | None, work: step_models.Work, peak: float | None
) -> None:
    """Add to each mode of a case x_inline, its speed over the authors' way's, and model_flop_utilisation.

    Args:
        inline: pairs/s of the authors' way for the same model and weights; None where it was not measured.
        peak: of the GPU in TFLOP/s; None where it is not known, and then there is no utilisation.
    """
    counted = work.per_pair(False, case.lora)
    for mode, one in measured.get("modes", {}).items():
        if mode == "vae":
            continue
        speed = one["pairs_per_second"]
        if inline is not None:
            one["x_inline"] = speed / inline
        if peak is not None:
            one["model_flop_utilisation"] = counted[mode] * speed / (peak * 1e12)


def show(case: Case, measured: Mapping[str, Any]) -> list[str]:
    """Lay a case out as lines of the table."""
    if not measured["pairs"]:
        return [f"{case.name:<20}  does not fit into this GPU's memory"]
    lines = []
    for mode, one in measured["modes"].items():
        if mode == "vae":
            lines.append(f"{case.name:<20}  {mode:<8}  {one['images_per_second']:>9.2f} images/s")
            continue
        ratio = f"{one['x_inline']:.2f}" if "x_inline" in one else "-"
        share = f"{one['model_flop_utilisation']:.1%}" if "model_flop_utilisation" in one else "-"
        speed = f"{one['pairs_per_second']:>9.2f} pairs/s  {ratio:>5} x inline  {share:>6} of peak"
        memory = f"{one['peak_bytes'] / 2**30:>6.1f} GiB  {one['data_wait']:>6.1%} waiting"
        lines.append(f"{case.name:<20}  {mode:<8}  {speed}  {memory}  {measured['pairs']} pairs a step")
    return lines


def main(config: BenchmarkConfig) -> None:
    """Measure training and encoding on a GPU against the authors' way."""
    begun = time.monotonic()
    missing = lacking(config.rehearse)
    if missing:
        raise UserError(missing)
    device = torch.device("cpu" if config.rehearse else "cuda")
    if config.rehearse:
        torch.set_num_threads(1)
        keep_freed_memory()
    name = "cpu" if config.rehearse else torch.cuda.get_device_name()
    known = accelerators.of_device(name)
    results: dict[str, Any] = {}
    left_out: list[str] = []
    longest = 0.0
    for case in CASES:
        started = time.monotonic()
        expected = max(longest, COMPILING_S if case.compiled and not config.rehearse else 0.0)
        if started - begun + expected > config.minutes * 60:
            left_out.append(case.name)
            continue
        measured = measure(case, config, device)
        folder = step_models.folder_of(case.model, "small" if config.rehearse else "full")
        plain = measured if not case.compiled else results.get(case.name.removesuffix(COMPILED), {})
        inline = plain.get("modes", {}).get("inline", {}).get("pairs_per_second")
        add_ratios(case, measured, inline, step_models.count(folder), known.peak if known else None)
        print("\n".join(show(case, measured)), flush=True)
        results[case.name] = measured
        longest = max(longest, time.monotonic() - started)
        _free(device)
        if config.json:
            facts = {"device": name, "torch": torch.__version__, "left_out": left_out, "config": asdict(config)}
            Path(files.resolve(config.json)).write_text(json.dumps({"cases": results, **facts}, indent=2) + "\n")
    if left_out:
        print(f"left out, for lack of time: {', '.join(left_out)}", flush=True)


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig, about=__doc__)
