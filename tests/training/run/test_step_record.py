"""What a step measured over several ranks: means over all pairs, and a stream that no split of the batch changes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from training.method.forward import MeasuredBatch
from training.run import step_record
from training.run.step_record import StepRecord


def measured(losses: Sequence[float], accuracies: Sequence[float], timesteps: Sequence[int]) -> MeasuredBatch:
    """Make a micro-batch whose winners have the error 1 and losers 2, of the reference 3 and 4."""
    ones = torch.ones(len(losses))
    return MeasuredBatch(
        losses=torch.tensor(losses),
        policy_errors=torch.stack([ones, 2 * ones]),
        reference_errors=torch.stack([3 * ones, 4 * ones]),
        margins=-ones,
        accuracies=torch.tensor(accuracies),
        timesteps=torch.tensor(timesteps),
        beta=7.0,
    )


def record(*parts: tuple[MeasuredBatch, int]) -> StepRecord:
    made = StepRecord(3, 0.5, 1000, torch.device("cpu"))
    for part, fingerprint in parts:
        made.add(part, fingerprint)
    return made


def test_ranks_add_their_sums_and_streams_up(monkeypatch: pytest.MonkeyPatch) -> None:
    high = 0xFFFF_FFFF_0000_0001
    low = 0x0000_0001_FFFF_FFFF  # with the first, the low half carries, and the sum goes beyond 64 bits
    ours = record((measured([1.0, 2.0], [1.0, 0.0], [0, 249]), high), (measured([6.0], [0.5], [250]), 5))
    theirs = record((measured([3.0], [1.0], [999]), low))
    others = iter([theirs.sums, torch.tensor([low >> 32, low & 0xFFFF_FFFF])])
    monkeypatch.setattr(step_record.dist, "all_reduce", lambda tensor: tensor.add_(next(others)))
    ours.reduce(2, torch.tensor(0.25))
    values = ours.values
    assert values["loss"] == (1 + 2 + 6 + 3) / 4
    assert values["accuracy"] == (1 + 0 + 0.5 + 1) / 4
    assert values["stream"] == f"{(high + 5 + low) % 2**64:016x}" == "0000000100000005"
    assert (values["margin"], values["beta"], values["gradient_norm"]) == (-1.0, 7.0, 0.25)
    assert [values[f"policy_error_q{quarter}"] for quarter in (1, 2, 3, 4)] == [1.5, 1.5, None, 1.5]
    assert [values[f"reference_error_q{quarter}"] for quarter in (1, 2, 3, 4)] == [3.5, 3.5, None, 3.5]
    assert (values["winner_error"], values["loser_error"], values["reference_loser_error"]) == (1, 2, 4)


def test_cutting_a_batch_otherwise_changes_no_figure() -> None:
    whole = record((measured([1.0, 2.0, 6.0], [1.0, 0.0, 0.5], [0, 249, 250]), 12))
    cut = record((measured([1.0, 2.0], [1.0, 0.0], [0, 249]), 7), (measured([6.0], [0.5], [250]), 5))
    for one in (whole, cut):
        one.reduce(1, torch.tensor(1.0))
    assert whole.values == cut.values
    assert whole.finish(2.0, 0.5, 3) == whole.values | {
        "seconds": 2.0,
        "data_wait_seconds": 0.5,
        "pairs_per_second": 1.5,
    }
