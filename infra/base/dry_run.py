"""The dry run: what a job would take, laid out as a table before any accelerator is paid for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infra.base import files
from infra.base.accelerators import ACCELERATORS, Accelerator, Name
from infra.base.errors import UserError
from infra.base.places import PathText

ASSUMED_UTILISATION = 0.4

Row = tuple[str, str]  # what, how much; a part of the row above begins with two blanks


@dataclass(frozen=True, kw_only=True)
class DryRunConfig:
    """What the job would take and cost: printed in its place, without a cluster and without reading weights."""

    dry_run: bool = False
    """Print the estimate and stop. The other flags of this group need it."""
    accelerator: Name | None = None
    """GPU to estimate for, one for each worker; by default h100."""
    price_per_hour: float | None = None
    """Price of one GPU for an hour, in any currency; without it no cost is printed."""
    utilisation: float | None = None
    """Share of the GPU's peak speed that the job reaches, above 0 and at most 1; by default 0.4."""
    measured: PathText | None = None
    """JSON file that infra/benchmarks/step.py wrote on such a GPU; its utilisation is then taken."""

    @property
    def card(self) -> Accelerator:
        """Return the accelerator to plan for."""
        return ACCELERATORS[self.accelerator or "h100"]


def check(asked: DryRunConfig) -> None:
    """Refuse what makes no plan.

    Raises:
        UserError: naming the flag.
    """
    if asked.utilisation is not None and not 0 < asked.utilisation <= 1:
        raise UserError(f"--utilisation {asked.utilisation:g}: a share of the peak, above 0 and at most 1")
    if asked.price_per_hour is not None and asked.price_per_hour < 0:
        raise UserError(f"--price-per-hour {asked.price_per_hour:g}: below zero")
    if asked.measured and asked.utilisation is not None:
        raise UserError("--utilisation with --measured: give one of them")
    if not asked.dry_run and asked != DryRunConfig():
        raise UserError("--accelerator, --price-per-hour, --utilisation and --measured are for --dry-run")


def utilisation(asked: DryRunConfig, mode: str) -> tuple[float, str]:
    """Return the share of the peak to plan with, and where it comes from.

    Args:
        mode: of the step benchmark, whose measurement is meant.

    Raises:
        UserError: if the file does not hold that measurement, or is of another accelerator.
    """
    if asked.measured is None:
        return asked.utilisation or ASSUMED_UTILISATION, "assumed"
    try:
        report = files.read_json(files.resolve(asked.measured))
        share = float(report["modes"][mode]["utilisation"])
        device = str(report["device"])
    except (OSError, UserError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--measured {asked.measured}: no utilisation of the mode {mode}; infra/benchmarks/step.py notes it on GPUs"
        ) from error
    title = asked.card.title
    if device != title:
        raise UserError(f"--measured {asked.measured}: measured on {device}, but --accelerator is {title}")
    return share, f"measured, {asked.measured}"


def memory_rows(parts: Sequence[tuple[str, float]], accelerator: Accelerator) -> list[Row]:
    """Lay out an accelerator's memory: the total, whether that fits, and its parts in bytes."""
    total = sum(size for _, size in parts)
    fits = "fits" if total <= accelerator.memory else "DOES NOT FIT"
    head = ("memory per accelerator", f"{gigabytes(total)} of {gigabytes(accelerator.memory)}: {fits}")
    return [head, *((f"  {name}", gigabytes(size)) for name, size in parts)]


def flop_rows(unit: str, parts: Sequence[tuple[str, float]]) -> list[Row]:
    """Lay out the arithmetic of one unit of work: the total and its parts in FLOPs."""
    head = (f"TFLOP per {unit}", f"{sum(work for _, work in parts) / 1e12:,.6g}")
    return [head, *((f"  {name}", f"{work / 1e12:,.6g}") for name, work in parts)]


def hours(work: float, accelerator: Accelerator, share: float) -> float:
    """Return how many hours one accelerator computes at a share of its peak; work in FLOPs."""
    return work / (accelerator.peak * 1e12 * share) / 3600


def cost_rows(asked: DryRunConfig, work: float, copies: int, mode: str, precision: str) -> list[Row]:
    """Lay out time and cost.

    Args:
        work: FLOPs of the whole job.
        copies: accelerators that share it.
        mode: of the step benchmark, whose utilisation is meant.
        precision: of the arithmetic; the peak is that of 16 bits.
    """
    accelerator = asked.card
    share, origin = utilisation(asked, mode)
    needed = hours(work, accelerator, share)
    slower = "; float32, as asked for, is slower than that" if precision == "float32" else ""
    rows = [
        ("accelerator", f"{accelerator.title}, {accelerator.peak:g} TFLOP/s dense bfloat16{slower}"),
        ("utilisation", f"{share:.3g} ({origin})"),
        ("accelerator-hours", f"{needed:,.3g}"),
        ("hours", f"{needed / copies:,.3g} on {copies}"),
    ]
    if asked.price_per_hour is not None:
        rows.append(("cost", f"{needed * asked.price_per_hour:,.2f} at {asked.price_per_hour:g} an hour"))
    return rows


def gigabytes(size: float) -> str:
    """Write a number of bytes in GB (10^9)."""
    return f"{size / 1e9:,.4g} GB"


def table(rows: Sequence[Row]) -> str:
    """Lay rows out in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
