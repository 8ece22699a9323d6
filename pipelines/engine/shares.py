"""How many copies of a step run, and which share of the cluster each copy takes."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.engine import in_process
from pipelines.engine.jobs import SMALL_CPUS


@dataclass(frozen=True)
class Share:
    """Copies of a step, and the GPUs that each of them takes."""

    copies: int
    gpus: float


def share(devices: int, copies: int = 0, gpus_per_copy: float | None = None) -> Share:
    """Share a cluster's GPUs out among the copies of a step.

    Args:
        devices: GPUs in the cluster.
        copies: as asked for; 0: one per GPU, or one where there is no GPU.
        gpus_per_copy: as asked for; None: one where the cluster has GPUs, else none.
    """
    gpus = float(devices > 0) if gpus_per_copy is None else gpus_per_copy
    return Share(copies or max(1, devices), gpus)


def cluster_only(flag: str, gpus_per_copy: float | None) -> str | None:
    """Return a flag with its value if only a cluster can heed it: a copy in one process takes what GPU there is."""
    if gpus_per_copy is None or gpus_per_copy == in_process.device_count():
        return None
    return f"{flag} {gpus_per_copy:g}"


def feeding_cpus(devices: int, cpus: float | None = None) -> float:
    """Return the cores of a task that feeds the copies, for example one that decodes images.

    Args:
        devices: GPUs in the cluster. Without any, the task takes as little as a copy does, so that Ray runs both in one
            process.
        cpus: as asked for; None: a whole core where the cluster has GPUs.
    """
    if cpus is not None:
        return cpus
    return 1.0 if devices else SMALL_CPUS
