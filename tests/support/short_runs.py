"""Settings of a short run, which most tests of the trainer begin with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.material import notes
from training.method.objective_config import ObjectiveConfig
from training.settings.config import DataConfig, OptimizerConfig, TrainConfig


def short_run(model: str, store: Path, held_out: Path, folder: Path) -> TrainConfig:
    """Return settings of a run of six steps of eight pairs below a folder."""
    data = DataConfig(
        store=str(store),
        held_out_store=str(held_out),
        cache=str(folder / "cache"),
        global_batch=8,
        micro_batch=4,
    )
    return TrainConfig(
        model=model,
        output=str(folder / "run"),
        steps=6,
        checkpoint_every=2,
        data=data,
        objective=ObjectiveConfig(beta=500.0),
        optimizer=OptimizerConfig(warmup_steps=3),
        validation=replace(TrainConfig().validation, held_out_pairs=8, held_out_draws=1),
    )


def look_twice(patched: pytest.MonkeyPatch) -> None:
    """Let a run's last look at held-out pairs repeat twice; ten repeats took half of a short run's time."""
    from training.run import loop  # which loads torch: most tests need none of it

    patched.setattr(loop, "REWARD_DRAWS", 2)


def at(config: TrainConfig, name: str, **changes: Any) -> TrainConfig:
    """Return settings with another output beside the old one."""
    return replace(config, output=str(Path(config.output).parent / name), **changes)


def column(config: TrainConfig, name: str, key: str) -> list[Any]:
    """List a value of each step that the run of that name has noted."""
    return [row[key] for row in notes(at(config, name).output)]
