"""Accelerators that a run can be planned for, from their vendors' data sheets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Name = Literal["a100-40", "a100-80", "h100", "h100-pcie", "h200", "b200", "a10", "a10g", "l4", "l40s"]


@dataclass(frozen=True)
class Accelerator:
    """One kind of accelerator."""

    title: str
    memory: int  # bytes; a data sheet's GB are taken as 10^9, a little less than what the card has
    peak: float  # TFLOP/s of bfloat16 products added up in float32, without sparsity
    device: str  # how its driver's name for it begins


# Where a data sheet gives the figure "with sparsity" alone (H100, H200), half of it.
ACCELERATORS: dict[Name, Accelerator] = {
    # NVIDIA A100 Tensor Core GPU, data sheet, 2021
    "a100-40": Accelerator("NVIDIA A100 40GB", 40 * 10**9, 312, "NVIDIA A100-SXM4-40GB"),
    "a100-80": Accelerator("NVIDIA A100 80GB", 80 * 10**9, 312, "NVIDIA A100"),
    # NVIDIA H100 Tensor Core GPU, data sheet, 2022: SXM 1979 and PCIe 1513 with sparsity
    "h100": Accelerator("NVIDIA H100 SXM", 80 * 10**9, 989, "NVIDIA H100 80GB HBM3"),
    "h100-pcie": Accelerator("NVIDIA H100 PCIe", 80 * 10**9, 756, "NVIDIA H100 PCIe"),
    # NVIDIA H200 Tensor Core GPU, data sheet, 2023: SXM 1979 with sparsity
    "h200": Accelerator("NVIDIA H200 SXM", 141 * 10**9, 989, "NVIDIA H200"),
    # NVIDIA HGX B200, data sheet, 2025: eight of them 36 PFLOP/s with sparsity and 1.44 TB
    "b200": Accelerator("NVIDIA B200", 180 * 10**9, 2250, "NVIDIA B200"),
    # NVIDIA A10, data sheet, 2021, and A10G, as in AWS's g5 machines
    "a10g": Accelerator("NVIDIA A10G", 24 * 10**9, 70, "NVIDIA A10G"),
    "a10": Accelerator("NVIDIA A10", 24 * 10**9, 125, "NVIDIA A10"),
    # NVIDIA L4 and L40S, data sheets, 2023: 242 and 733 with sparsity, 121 and 362 without
    "l40s": Accelerator("NVIDIA L40S", 48 * 10**9, 362, "NVIDIA L40S"),
    "l4": Accelerator("NVIDIA L4", 24 * 10**9, 121, "NVIDIA L4"),
}
assert set(ACCELERATORS) == set(get_args(Name))


def of_device(name: str) -> Accelerator | None:
    """Find the accelerator that a driver's name for a device means; None for one that is not in the table.

    The table's order decides between names of which one begins with the other (A10G, A10).
    """
    return next((known for known in ACCELERATORS.values() if name.startswith(known.device)), None)
