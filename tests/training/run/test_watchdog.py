"""Winners and losers watched apart: changes by hand, words, the rule to stop by, and a run that it ends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.material import notes

from infra.base.errors import UserError
from training.checkpoints import checkpoint
from training.checkpoints.run_folder import is_finished
from training.method.forward import MeasuredBatch
from training.run import assembly, loop, watchdog
from training.run.result import result_folder
from training.run.step_record import StepRecord
from training.run.train_dpo import _refuse_met_stop
from training.settings import flags
from training.settings.config import TrainConfig


def row(step: int, winner: float, loser: float, reference: float = 0.5) -> dict[str, Any]:
    errors = {"winner_error": winner, "loser_error": loser}
    return {"step": step, **errors, "reference_winner_error": reference, "reference_loser_error": reference}


def test_changes_are_of_sums_over_steps() -> None:
    # Winners (0.5 + 0.7) / (0.5 + 0.5) - 1, losers (0.4 + 0.4) / 1 - 1.
    rows = [row(1, 0.5, 0.4), row(2, 0.7, 0.4)]
    assert watchdog.changes(rows) == pytest.approx({"winner": 0.2, "loser": -0.2})
    assert watchdog.changes([{"step": 1, "winner_error": 0.5, "reference_winner_error": None}]) == {}


@pytest.mark.parametrize(
    ("winner", "loser", "said"),
    [
        (0.515, 0.55, "winners 3.0% worse than the reference, losers 10.0% worse: the policy is moving away from both"),
        (0.49, 0.51, "winners 2.0% better than the reference, losers 2.0% worse: the policy tells them apart"),
        (0.51, 0.49, "winners 2.0% worse than the reference, losers 2.0% better: the policy is learning the losers"),
        (0.501, 0.5, "winners 0.2% worse than the reference, losers 0.0% better: the policy is close to the reference"),
    ],
)
def test_health_in_words(winner: float, loser: float, said: str) -> None:
    assert watchdog.words([row(1, winner, loser)]) == said


def test_an_assessment_looks_back_to_the_one_before() -> None:
    steps = [row(1, 9.0, 0.5), row(2, 0.6, 0.5), row(3, 0.5, 0.5), row(4, 9.0, 0.5)]
    # Assessed at 1; at 3 the steps 2 and 3 count: 1.1 / 1.0 - 1.
    assert watchdog.since(steps, [{"step": 1}], 3) == pytest.approx({"winner_change": 0.1})
    assert watchdog.since([], [], 0) == {}


def test_the_rule_needs_so_many_checks_in_a_row() -> None:
    changes = {2: 0.1, 4: 0.02, 6: 0.1, 8: 0.2}
    assessments: list[dict[str, Any]] = [{"step": 0}]
    assessments += [{"step": step, "winner_change": change} for step, change in changes.items()]
    reason = watchdog.reason_to_stop(assessments, 0.05, 2)
    assert reason is not None
    assert "more than 5.0% above the reference's at 2 checks in a row (10.0% at step 6, 20.0% at step 8)" in reason
    assert watchdog.reason_to_stop(assessments, 0.05, 3) is None
    assert watchdog.reason_to_stop(assessments[:1], 0.05, 1) is None
    assert watchdog.healthy_step(assessments, 0.05) == 4


def test_a_step_records_winners_and_losers_by_quarter() -> None:
    record = StepRecord(1, 1e-5, 1000, torch.device("cpu"))
    record.add(
        MeasuredBatch(
            losses=torch.tensor([0.5, 0.7]),
            policy_errors=torch.tensor([[0.1, 0.3], [0.2, 0.6]]),
            reference_errors=torch.tensor([[0.2, 0.2], [0.2, 0.4]]),
            margins=torch.zeros(2),
            accuracies=torch.ones(2),
            timesteps=torch.tensor([0, 999]),
            beta=7.0,
        ),
        0,
    )
    record.reduce(1, torch.tensor(1.0))
    expected = {
        "winner_error": 0.2,  # (0.1 + 0.3) / 2
        "loser_error": 0.4,
        "reference_winner_error": 0.2,
        "reference_loser_error": 0.3,
        "winner_error_q1": 0.1,
        "loser_error_q4": 0.6,
        "reference_loser_error_q4": 0.4,
        "policy_error_q4": 0.45,  # (0.3 + 0.6) / 2
        "reference_error_q4": 0.3,
        "beta": 7.0,
    }
    assert {name: record.values[name] for name in expected} == pytest.approx(expected)
    assert record.values["winner_error_q2"] is None


@pytest.mark.slow
def test_a_run_that_hurts_winners_stops_with_its_last_healthy_checkpoint(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {2: 0.01, 4: 0.09, 6: 0.08}
    monkeypatch.setattr(watchdog, "since", lambda _steps, _before, step: {"winner_change": found.get(step, 0.0)})
    config = replace(config, steps=12, checkpoint_every=2, keep_checkpoints=1, stop_when=0.05, stop_checks=2)
    loop.train(config, assembly.Rank())
    assert [row["step"] for row in notes(config.output)] == [1, 2, 3, 4, 5, 6]
    facts = json.loads((result_folder(Path(config.output)) / "facts.json").read_text())
    assert facts["best_step"] == 2
    assert facts["train"]["steps"] == 6
    assert facts["stopped"].startswith("stopped after step 6: the winners' error was more than 5.0% above")
    assert facts["stopped"] in capsys.readouterr().out
    assert is_finished(config.output, 12)
    assert {2, 6} <= {int(path.name[-7:]) for path in checkpoint.complete(Path(config.output))}


@pytest.mark.parametrize(
    ("stop_when", "checks", "step", "stops"),
    [(0.05, 2, 4, True), (0.05, 3, 4, False), (0.08, 2, 4, False), (0.05, 2, 3, False), (None, 2, 4, False)],
)
def test_a_run_asks_by_its_own_flags_and_only_at_checks(
    stop_when: float | None, checks: int, step: int, stops: bool
) -> None:
    judged = [{"step": 2, "winner_change": 0.09}, {"step": 4, "winner_change": 0.07}]
    config = replace(TrainConfig(), steps=12, checkpoint_every=2, stop_when=stop_when, stop_checks=checks)
    trainer: Any = SimpleNamespace(config=config, rank=assembly.Rank(), journal=SimpleNamespace(rows=lambda _: judged))
    assert (loop.reason_to_stop(trainer, step) is not None) is stops


def test_rules_that_nothing_meets_are_refused() -> None:
    with pytest.raises(UserError, match="--stop-checks 2: only --stop-when has it"):
        flags.check_flags(replace(TrainConfig(), stop_checks=2))
    with pytest.raises(UserError, match="--stop-when -1: must be 0 or more"):
        flags.check_flags(replace(TrainConfig(), stop_when=-1.0))
    lone = replace(TrainConfig(), stop_when=0.1, objective=replace(TrainConfig().objective, objective="sft"))
    with pytest.raises(UserError, match=r"--stop-when 0\.1: compares with a reference, and --objective sft has none"):
        flags.check_flags(lone)


def test_going_on_from_where_the_rule_ends_the_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "assessments.jsonl").write_text('{"step": 2, "winner_change": 0.09}\n')
    config = replace(TrainConfig(), stop_when=0.05, stop_checks=1)
    _refuse_met_stop(str(tmp_path), config, 1)  # before the check at which it is met
    _refuse_met_stop(str(tmp_path), replace(config, stop_when=0.1), 2)
    with pytest.raises(UserError, match=r"--resume-from 2: --stop-when ends the run there, as the winners' error"):
        _refuse_met_stop(str(tmp_path), config, 2)
