"""What a plan assumes: each figure with its unit and where it comes from; benchmarks' files and flags replace them."""

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
"""By model: shape of a latent, and of each embedding column, as the loader's benchmark stores them."""

BENCHMARKS = "infra/benchmarks"
# Measured on two cores without a GPU, 2026-11-25 (docs/measurements.md, docs/performance.md); what no machine here
# could show is assumed, and says so.
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

        In float32 torch's convolutions take TF32 products, at half of bfloat16's peak; a measurement is of bfloat16.
        """
        known = ACCELERATORS[card]
        share = self.steps.get(known.title, {}).get(mode, self["utilisation"])
        return known.peak * 1e12 * share * (0.5 if precision == "float32" else 1.0)


def _loader_rate(told: Mapping[str, Any]) -> float:
    shape, embeddings = STORED_SHAPES[told["config"]["model"]]
    stored = 2 * (2 * math.prod(shape) + sum(math.prod(each) for each in embeddings.values()))
    return float(min(told["cold"], *told["warm"])) * stored / 1e9


def _rates(told: Mapping[str, Any]) -> dict[str, float]:
    megapixels = 2 * told["config"]["side"] ** 2 / 1e6
    rates = {name: float(told[name]) for name in ("decode_rate", "copy_rate", "write_rate")}
    return rates | {"decode_rate": rates["decode_rate"] * megapixels}


READERS: dict[str, Callable[[Mapping[str, Any]], dict[str, float]]] = {
    "encode": lambda told: {"encode_ratio": float(told["ratio"])},
    "relabel": lambda told: {"relabel_ratio": float(told["ratio_bare"])},
    "train_loop": lambda told: {"train_ratio": float(told["ratio"])},
    "data": lambda told: {"loader_rate": _loader_rate(told)},
    "rates": _rates,
}


def read(measured: Sequence[str], assumed: Sequence[str]) -> Assumptions:
    """Return the figures, some of them replaced.

    Args:
        measured: BENCHMARK=FILE each, the file one that infra/benchmarks/BENCHMARK.py wrote by --json.
        assumed: NAME=VALUE each.

    Raises:
        UserError: naming the flag that cannot be used.
    """
    figures, steps = dict(FIGURES), dict[str, dict[str, float]]()
    for given in measured:
        name, _, path = given.partition("=")
        if name not in (*READERS, "step") or not path:
            raise UserError(f"--measured {given}: BENCHMARK=FILE, of {', '.join((*READERS, 'step'))}")
        try:
            told = files.read_json(files.resolve(path))
            if name == "step":
                modes = told["modes"].items()
                steps[str(told["device"])] = {mode: float(one["utilisation"]) for mode, one in modes}
                continue
            found = READERS[name](told)
        except (OSError, UserError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"--measured {given}: not what infra/benchmarks/{name}.py writes by --json") from error
        for key, value in found.items():
            figures[key] = Figure(_positive(f"--measured {given}", value), figures[key].unit, f"measured, {path}")
    for given in assumed:
        name, _, text = given.partition("=")
        if name not in figures:
            raise UserError(f"--assume {given}: NAME=VALUE, of {', '.join(figures)}")
        try:
            value = _positive(f"--assume {given}", float(text))
        except ValueError as error:
            raise UserError(f"--assume {given}: not a number") from error
        figures[name] = Figure(value, figures[name].unit, "given")
    if not figures["utilisation"].value <= 1:
        raise UserError(f"--assume utilisation={figures['utilisation'].value:g}: a share of the peak, at most 1")
    return Assumptions(figures, steps)


def _positive(flag: str, value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{flag}: {value:g} is no positive number")
    return value
