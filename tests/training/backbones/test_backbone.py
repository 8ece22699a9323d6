"""Which class opens a folder, and what is refused before any weights are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.material import MODEL

from infra.base import models
from infra.base.errors import UserError
from pipelines.latents.kinds import kind_of
from training.backbones.backbone import check_fingerprints, open_backbone
from training.backbones.diffusion import StableDiffusion, StableDiffusionXL
from training.backbones.flow import Flux, StableDiffusion3
from training.backbones.schedule_config import ScheduleConfig

Pipelines = Callable[[str], Path]


@pytest.mark.parametrize(
    ("kind", "expected", "prediction"),
    [
        ("sd-v", StableDiffusion, "v_prediction"),
        ("sdxl", StableDiffusionXL, "epsilon"),
        ("sd3", StableDiffusion3, "flow"),
        ("flux", Flux, "flow"),
    ],
)
def test_the_pipelines_class_decides(kind: str, expected: type, prediction: str, tiny_pipeline: Pipelines) -> None:
    backbone = open_backbone(tiny_pipeline(kind), ScheduleConfig())
    assert type(backbone) is expected
    assert backbone.prediction_type == prediction
    assert backbone.timesteps == 1000
    assert backbone.network_folder == kind_of(backbone.folder).network


def test_a_pipeline_that_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    with pytest.raises(UserError, match="a PixArtAlphaPipeline; this trainer knows StableDiffusionPipeline"):
        open_backbone(tmp_path, ScheduleConfig())


def test_a_store_of_another_vae_is_refused_with_both_fingerprints() -> None:
    with pytest.raises(UserError, match=r"store 0000000000000000, model [0-9a-f]{16}"):
        check_fingerprints({"vae": "0" * 64, "text_encoder": "0" * 64}, MODEL, "store")


def test_each_text_encoder_is_compared(tiny_pipeline: Pipelines) -> None:
    folder = tiny_pipeline("sd3")
    stored = {part: models.fingerprint(folder, part) for part in kind_of(folder).frozen()}
    check_fingerprints(stored, folder, "store")
    with pytest.raises(UserError, match="another text_encoder_3 than"):
        check_fingerprints(stored | {"text_encoder_3": "0" * 64}, folder, "store")
    del stored["text_encoder_3"]  # a store encoded without T5
    check_fingerprints(stored, folder, "store")
    del stored["text_encoder_2"]
    with pytest.raises(UserError, match=r"another text_encoder_2 than .* store None"):
        check_fingerprints(stored, folder, "store")
