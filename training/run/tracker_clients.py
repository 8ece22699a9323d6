"""The clients of experiment trackers: each connects to one run, goes on in it, and takes rows of numbers.

Server, project and login come from each client's own environment variables, never from flags: WANDB_PROJECT and
WANDB_API_KEY, MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME, TRACKIO_PROJECT and TRACKIO_DIR.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.run.trackers import Row, Tracker

PROJECT = "diffusion-dpo"  # where the environment names none
AT_ONCE = 500  # numbers in a request; MLflow's server takes at most 1,000


class Wandb:
    """Weights & Biases; offline where WANDB_MODE=offline, for `wandb sync` later."""

    def __init__(self, name: str, settings: Mapping[str, Any], folder: Path, key: str) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", PROJECT)
        quiet = wandb.Settings(silent=True)
        self.run = wandb.init(
            project=project, id=key, name=name, resume="allow", config=dict(settings), dir=str(folder), settings=quiet
        )
        self.run.define_metric("*", step_metric="step")  # its own count of calls has nothing to do with steps

    def log(self, rows: Sequence[Row]) -> None:
        """Send rows; step is one of their numbers."""
        for row in rows:
            self.run.log(dict(row))

    def close(self) -> None:
        """Wait until all is sent."""
        self.run.finish()


class Mlflow:
    """MLflow's tracking server, or its folder."""

    def __init__(self, name: str, settings: Mapping[str, Any], _folder: Path, key: str) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        self.client = MlflowClient()
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(title)
        number = experiment.experiment_id if experiment else self.client.create_experiment(title)
        earlier = self.client.search_runs([number], f"tags.dpo_run = '{key}'")  # the server chooses a run's own id
        if earlier:
            self.run = earlier[0].info.run_id
            self.client.update_run(self.run, status="RUNNING")
            return
        self.run = self.client.create_run(number, run_name=name).info.run_id
        params = [Param(setting, str(value)) for setting, value in settings.items()]
        self.client.log_batch(self.run, params=params[:100], tags=[RunTag("dpo_run", key)])
        for start in range(100, len(params), 100):  # a request takes so many
            self.client.log_batch(self.run, params=params[start : start + 100])

    def log(self, rows: Sequence[Row]) -> None:
        """Send rows, many in a request."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        values = [
            Metric(name, value, now, row["step"]) for row in rows for name, value in row.items() if name != "step"
        ]
        for start in range(0, len(values), AT_ONCE):
            self.client.log_batch(self.run, metrics=values[start : start + AT_ONCE])

    def close(self) -> None:
        """Mark the run as finished."""
        self.client.set_terminated(self.run)


class Trackio:
    """trackio: a local file, or a Space."""

    def __init__(self, name: str, settings: Mapping[str, Any], _folder: Path, key: str) -> None:
        import trackio

        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        config = {key: value if isinstance(value, int | float | str) else str(value) for key, value in settings.items()}
        self.run = trackio.init(
            project=project,
            name=f"{name}-{key}",
            config=config,
            resume="allow",
            embed=False,  # a page within a notebook
            auto_log_gpu=False,  # the machine's own curves belong to Prometheus
            auto_log_cpu=False,
        )

    def log(self, rows: Sequence[Row]) -> None:
        """Send rows."""
        for row in rows:
            self.run.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])

    def close(self) -> None:
        """Wait until all is sent."""
        self.run.finish()


OPEN: dict[str, Callable[[str, Mapping[str, Any], Path, str], Tracker]] = {
    "wandb": Wandb,
    "mlflow": Mlflow,
    "trackio": Trackio,
}
