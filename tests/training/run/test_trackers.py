"""Experiment trackers: fed from the notes, gone on with after a resume, and never the end of a training."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from infra.base.errors import UserError
from training.checkpoints.run_folder import ASSESSMENTS, STEPS, TRACKERS
from training.run import tracker_clients, trackers
from training.run.journal import Journal
from training.settings.config import TrainConfig
from training.settings.tracking_config import TrackingConfig

STEP = {"loss": 0.5, "accuracy": 0.75, "gradient_norm": 1.0, "pairs_per_second": 20.0, "stream": "00ff", "beta": None}


class Noted:
    """A server that keeps what it is sent, by the run's id."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Mapping[str, Any]]] = {}
        self.closed = 0

    def open(self, key: str) -> Noted:
        self.kept = self.rows.setdefault(key, [])
        return self

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.kept.extend(rows)

    def close(self) -> None:
        self.closed += 1


def journal_of(folder: Path, open_tracker: Callable[[str], Any]) -> Journal:
    return Journal(folder, enabled=True, steps=9, report=lambda at: [trackers.Feeder("wandb", at, open_tracker)])


def run_steps(journal: Journal, after: int, until: int) -> None:
    journal.rewind(after)
    for step in range(after + 1, until + 1):
        journal.step({"step": step, **STEP})
    journal.assessment(until, {"held_out_accuracy": 0.625})
    journal.close()


def test_a_resumed_run_goes_on_in_its_curve_and_sends_no_step_twice(tmp_path: Path) -> None:
    server = Noted()
    run_steps(journal_of(tmp_path, server.open), 0, 5)
    run_steps(journal_of(tmp_path, server.open), 3, 7)  # steps 4 and 5 are taken again, and are the same
    (rows,) = server.rows.values()
    assert sorted(row["step"] for row in rows if "loss" in row) == [1, 2, 3, 4, 5, 6, 7]
    assert [row["step"] for row in rows if "held_out_accuracy" in row] == [5, 7]
    assert rows[0] == {"step": 1, "loss": 0.5, "accuracy": 0.75, "gradient_norm": 1.0, "pairs_per_second": 20.0}
    assert server.closed == 2
    state = json.loads((tmp_path / TRACKERS).read_text())["wandb"]
    assert state == {"id": next(iter(server.rows)), "sent": {STEPS: 7, ASSESSMENTS: 7}}


def test_a_tracker_that_fails_is_said_once_and_caught_up_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: str) -> Any:
        raise ConnectionError("https://user:PLANTED@host refused")

    with caplog.at_level(logging.WARNING, "dpo"):
        run_steps(journal_of(tmp_path, refuse), 0, 3)
    assert len(caplog.records) == 1
    told = "--report-to wandb: ConnectionError: [URL with credentials] refused; training goes on without it"
    assert caplog.records[0].getMessage() == told
    assert len((tmp_path / STEPS).read_text().splitlines()) == 3
    noted = json.loads((tmp_path / TRACKERS).read_text())["wandb"]  # before the tracker could know it
    server = Noted()
    run_steps(journal_of(tmp_path, server.open), 3, 4)
    assert list(server.rows) == [noted["id"]]
    assert [row["step"] for row in server.kept if "loss" in row] == [1, 2, 3, 4]


def test_a_missing_client_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    trackers.check(("tensorboard",))
    with pytest.raises(UserError) as refused:
        trackers.check(("tensorboard", "mlflow"))
    assert str(refused.value) == (
        "--report-to mlflow: its client is not installed; pip install 'diffusion-dpo[mlflow]', or leave it out"
    )
    with pytest.raises(UserError, match="--report-to tensorboard: is named twice"):
        trackers.check(("tensorboard", "tensorboard"))


def report(folder: Path, name: Any, after: int, until: int) -> None:
    """Take the steps of a run that reports to a real client."""
    config = TrainConfig(output=str(folder), steps=until, tracking=TrackingConfig(report_to=(name,)))
    journal = Journal(folder, enabled=True, steps=until, report=lambda at: trackers.start(config, at))
    run_steps(journal, after, until)


@pytest.mark.slow
def test_mlflows_own_store_has_one_run_with_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    report(tmp_path / "run", "mlflow", 0, 3)
    report(tmp_path / "run", "mlflow", 3, 5)
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name(tracker_clients.PROJECT).experiment_id])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4, 5]
    assert run.data.params["objective.beta"] == "5000.0"
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")


@pytest.mark.slow
def test_trackios_database_has_one_run_with_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    report(tmp_path / "run", "trackio", 0, 3)
    report(tmp_path / "run", "trackio", 3, 5)
    (name,) = SQLiteStorage.get_runs(tracker_clients.PROJECT)
    rows = [row for row in SQLiteStorage.get_logs(tracker_clients.PROJECT, name) if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_wandb_offline_keeps_both_parts_under_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    report(tmp_path / "run", "wandb", 0, 3)
    report(tmp_path / "run", "wandb", 3, 5)
    key = json.loads((tmp_path / "run" / TRACKERS).read_text())["wandb"]["id"]
    written = list((tmp_path / "run" / "wandb").glob(f"offline-run-*-{key}/run-{key}.wandb"))
    assert len(written) == 2  # `wandb sync` joins them, for their id is one
