"""The assumptions of a plan: each figure, its unit and its source; files of benchmarks and flags replace them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.base import files
from infra.base.accelerators import ACCELERATORS, Name
from infra.base.dry_run import ASSUMED_UTILISATION
from infra.base.errors import UserError


@dataclass(frozen=True)
class Figure:
    """One figure of a plan."""

    value: float
    unit: str
    origin: str


STORED_SHAPES: dict[str, tuple[tuple[int, ...], dict[str, tuple[int, ...]]]] = {
    "sd15": ((4, 64, 64), {"text_encoder": (77, 768)}),
    "sdxl": (
        (4, 128, 128),
        {"text_encoder": (77, 768), "text_encoder_2": (77, 1280), "text_encoder_2_pooled": (1280,)},
    ),
}
"""By model: the shape of a latent and of each embedding column, as the loader's benchmark stores them."""

BENCHMARKS = "infra/benchmarks"
# Measured on two cores without a GPU, 2026-11-25 (docs/measurements.md, docs/performance.md). Figures that these
# could not show are assumed, and their origin says so.
FIGURES: dict[str, Figure] = {
    "encode_ratio": Figure(0.969, "of a bare loop", f"{BENCHMARKS}/encode.py"),
    "relabel_ratio": Figure(0.949, "of a bare loop", f"{BENCHMARKS}/relabel.py"),
    "train_ratio": Figure(0.965, "of a bare step", f"{BENCHMARKS}/train_loop.py"),
    "loader_rate": Figure(0.60, "GB/s a worker", f"{BENCHMARKS}/data.py: SD1.5's 3,411 and SDXL's 1,032 pairs/s, cold"),
    "decode_rate": Figure(119.0, "megapixels/s a core", f"{BENCHMARKS}/rates.py"),
    "copy_rate": Figure(2.4, "GB/s", f"{BENCHMARKS}/rates.py: a checkpoint into CPU memory"),
    "write_rate": Figure(0.81, "GB/s", f"{BENCHMARKS}/rates.py: a checkpoint written and hashed"),
    "restart": Figure(18.0, "s", "docs/design.md: a worker's SIGKILL to the next step, without reading a checkpoint"),
    "rows_per_pair": Figure(959_040 / 851_293, "raw rows a kept pair", "Pick-a-Pic v2, train"),
    "captions_per_pair": Figure(58_960 / 851_293, "captions a kept pair", "Pick-a-Pic v2, train"),
    "utilisation": Figure(ASSUMED_UTILISATION, "of the peak", "assumed"),
    "image": Figure(0.59, "megapixels a raw image", "assumed: 768 x 768"),
    "row_bytes": Figure(0.35e6, "bytes a raw row", "assumed"),
    "bandwidth": Figure(1.25, "GB/s a node to and from S3", "assumed: 10 Gbit/s"),
    "exchange": Figure(25.0, "GB/s an accelerator, gradients", "assumed"),
    "cpus": Figure(14.0, "cores an accelerator", "infra/deploy/values.yaml: l4, a10g"),
    "startup": Figure(120.0, "s from a node's start to its first unit", "assumed"),
}


@dataclass(frozen=True)
class Assumptions:
    """The figures of one plan."""

    figures: Mapping[str, Figure]
    steps: Mapping[str, Mapping[str, float]]  # measured utilisation by mode of the step benchmark, by accelerator

    def __getitem__(self, name: str) -> float:
        return self.figures[name].value

    def speed(self, card: Name, mode: str, precision: str) -> float:
        """Return FLOPs/s of an accelerator in a mode of the step benchmark.

        A measured utilisation is that of bfloat16. In float32 torch's convolutions use TF32, at half of that peak.
        """
        known = ACCELERATORS[card]
        share = self.steps.get(known.title, {}).get(mode, self["utilisation"])
        return known.peak * 1e12 * share * (0.5 if precision == "float32" else 1.0)


def _loader_rate(benchmark: Mapping[str, Any]) -> float:
    shape, embeddings = STORED_SHAPES[benchmark["config"]["model"]]
    stored = 2 * (2 * math.prod(shape) + sum(math.prod(each) for each in embeddings.values()))
    return float(min(benchmark["cold"], *benchmark["warm"])) * stored / 1e9


def _rates(benchmark: Mapping[str, Any]) -> dict[str, float]:
    megapixels = 2 * benchmark["config"]["side"] ** 2 / 1e6
    rates = {name: float(benchmark[name]) for name in ("decode_rate", "copy_rate", "write_rate")}
    return rates | {"decode_rate": rates["decode_rate"] * megapixels}


READERS: dict[str, Callable[[Mapping[str, Any]], dict[str, float]]] = {
    "encode": lambda benchmark: {"encode_ratio": float(benchmark["ratio"])},
    "relabel": lambda benchmark: {"relabel_ratio": float(benchmark["ratio_bare"])},
    "train_loop": lambda benchmark: {"train_ratio": float(benchmark["ratio"])},
    "data": lambda benchmark: {"loader_rate": _loader_rate(benchmark)},
    "rates": _rates,
}


def read(measured: Sequence[str], assumed: Sequence[str]) -> Assumptions:
    """Return the figures, some of them replaced.

    Args:
        measured: BENCHMARK=FILE each; infra/benchmarks/BENCHMARK.py --json wrote the file.
        assumed: NAME=VALUE each.

    Raises:
        UserError: naming the flag that cannot be used.
    """
    figures = dict(FIGURES)
    steps: dict[str, dict[str, float]] = {}
    for given in measured:
        _replace_by_measured(given, figures, steps)
    for given in assumed:
        _replace_by_assumed(given, figures)
    utilisation = figures["utilisation"].value
    if not utilisation <= 1:
        raise UserError(f"--assume utilisation={utilisation:g}: it is a share of the peak; give a number up to 1")
    return Assumptions(figures, steps)


def _replace_by_measured(given: str, figures: dict[str, Figure], steps: dict[str, dict[str, float]]) -> None:
    """Put the results of one benchmark in place of the figures that they measure."""
    name, _, path = given.partition("=")
    known = (*READERS, "step")
    if name not in known or not path:
        raise UserError(f"--measured {given}: give BENCHMARK=FILE, where BENCHMARK is one of {', '.join(known)}")
    try:
        benchmark = files.read_json(files.resolve(path))
        if name == "step":
            modes = benchmark["modes"].items()
            steps[str(benchmark["device"])] = {mode: float(one["utilisation"]) for mode, one in modes}
            return
        results = READERS[name](benchmark)
    except (OSError, UserError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--measured {given}: cannot be read as results of that benchmark; "
            f"give a file that infra/benchmarks/{name}.py --json wrote"
        ) from error
    for key, value in results.items():
        figures[key] = Figure(_positive(f"--measured {given}", value), figures[key].unit, f"measured, {path}")


def _replace_by_assumed(given: str, figures: dict[str, Figure]) -> None:
    """Put the value that a flag gives in place of a figure."""
    name, _, text = given.partition("=")
    if name not in figures:
        raise UserError(f"--assume {given}: give NAME=VALUE, where NAME is one of {', '.join(figures)}")
    try:
        value = _positive(f"--assume {given}", float(text))
    except ValueError as error:
        raise UserError(f"--assume {given}: {text!r} is not a number; give one above 0") from error
    figures[name] = Figure(value, figures[name].unit, "given")


def _positive(flag: str, value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{flag}: {value:g} is not a usable figure; it must be a finite number above 0")
    return value
