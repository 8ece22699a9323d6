"""What is said of a run's models before a network is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.base import models
from training.backbones.schedule_config import ScheduleConfig
from training.run import model_check
from training.settings.config import TrainConfig


@pytest.mark.parametrize(
    ("model", "index", "timesteps", "told"),
    [
        ("Tongyi-MAI/Z-Image-Turbo", {}, None, "train Tongyi-MAI/Z-Image, or give --timesteps"),
        ("/data/klein", {"is_distilled": True}, None, "train the model that it was made of, or give --timesteps"),
        ("Tongyi-MAI/Z-Image-Turbo", {}, (900, 950), None),
        ("/data/klein", {"is_distilled": False}, None, None),
        ("Qwen/Qwen-Image-2512", {}, None, None),
    ],
)
def test_a_distilled_model_is_warned_of_and_its_base_is_named(
    model: str,
    index: dict[str, bool],
    timesteps: tuple[int, ...] | None,
    told: str | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / models.INDEX).write_text(json.dumps({"_class_name": "Flux2KleinPipeline", **index}))
    config = TrainConfig(model=model, schedule=ScheduleConfig(timesteps=timesteps))
    model_check._warn_of_distilled(config, tmp_path)
    assert (f"--model {model}: was distilled to a few sampling steps" in caplog.text) == (told is not None)
    assert (told or "") in caplog.text
