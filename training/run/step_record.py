"""What a step measured: means over its global batch, and errors by quarter of the noise schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from training.method.forward import MeasuredBatch

QUARTERS = 4  # of the noise schedule
PAIR_SUMS = ("pairs", "loss", "accuracy", "margin")  # each over all pairs of a step
APART = ("winner_error", "loser_error")
QUARTER_SUMS = (
    "pairs",
    *APART,
    *(f"reference_{name}" for name in APART),
)  # over a quarter's pairs


class StepRecord:
    """Measures one step: sums over this rank's pairs, which reduce() makes means over the global batch."""

    def __init__(self, step: int, learning_rate: float, timesteps: int, device: torch.device) -> None:
        self.step = step
        self.learning_rate = learning_rate
        self.timesteps = timesteps  # how many the schedule has
        self.has_reference = True
        self.beta: float | None = None  # of the step, where there is a reference
        self.stream = 0  # sum of the micro-batches' fingerprints, modulo 2^64
        # One tensor, so that the ranks add all sums up at once; the other two are views of it.
        self.sums = torch.zeros(len(PAIR_SUMS) + len(QUARTER_SUMS) * QUARTERS, dtype=torch.float64, device=device)
        self.pair_sums = self.sums[: len(PAIR_SUMS)]  # [PAIR_SUMS]
        self.quarter_sums = self.sums[len(PAIR_SUMS) :].view(len(QUARTER_SUMS), QUARTERS)
        self.values: dict[str, Any] = {}

    def add(self, part: MeasuredBatch, fingerprint: int) -> None:
        """Add a micro-batch; its losses are detached. fingerprint: of its pairs and draws, Batch.fingerprint."""
        self.stream += fingerprint
        self.has_reference = part.reference_errors is not None
        self.beta = part.beta
        ones = torch.ones_like(part.losses)
        pairs = {"pairs": ones, "loss": part.losses, "accuracy": part.accuracies, "margin": part.margins}
        self.pair_sums += torch.stack([pairs[name] for name in PAIR_SUMS]).double().sum(1)
        compared = part.policy_errors if part.reference_errors is None else part.reference_errors
        errors = torch.stack([ones, *part.policy_errors, *compared]).double()  # as QUARTER_SUMS
        self.quarter_sums.index_add_(1, (part.timesteps * QUARTERS) // self.timesteps, errors)

    def reduce(self, world_size: int, gradient_norm: torch.Tensor) -> None:
        """Combine all ranks' sums and streams into values; what needs a reference is None without one."""
        halves = torch.tensor([self.stream >> 32 & 0xFFFFFFFF, self.stream & 0xFFFFFFFF], device=self.sums.device)
        if world_size > 1:
            dist.all_reduce(self.sums)
            dist.all_reduce(halves)
        high, low = halves.tolist()
        total = dict(zip(PAIR_SUMS, self.pair_sums.tolist(), strict=True))
        self.values = {
            "step": self.step,
            "loss": total["loss"] / total["pairs"],
            "accuracy": total["accuracy"] / total["pairs"] if self.has_reference else None,
            "margin": total["margin"] / total["pairs"] if self.has_reference else None,
            "beta": self.beta,
            "gradient_norm": float(gradient_norm),
            "learning_rate": self.learning_rate,
            "stream": f"{((high << 32) + low) % (1 << 64):016x}",
        }
        self.values |= self._errors(self.quarter_sums.sum(1).tolist(), "")
        for quarter, column in enumerate(self.quarter_sums.T.tolist(), 1):
            self.values |= self._errors(column, f"_q{quarter}")

    def _errors(self, sums: Sequence[float], ending: str) -> dict[str, float | None]:
        """Turn QUARTER_SUMS into means, winners and losers apart and together; None without pairs or a reference."""
        total = dict(zip(QUARTER_SUMS, sums, strict=True))
        pairs = total.pop("pairs")
        policy = sum(total[name] for name in APART) / 2
        reference = sum(total[f"reference_{name}"] for name in APART) / 2
        both = {"policy_error": policy, "reference_error": reference} if ending else {}
        return {
            f"{name}{ending}": value / pairs if pairs and (self.has_reference or "reference" not in name) else None
            for name, value in (both | total).items()
        }

    def finish(self, seconds: float, waited: float, pairs: int) -> dict[str, Any]:
        """Add the times of the step and return all values."""
        return self.values | {"seconds": seconds, "data_wait_seconds": waited, "pairs_per_second": pairs / seconds}
