"""Guidance away from a negative model: which half goes where, and that a model beside itself changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.material import MODEL
from support.trained_models import moved_model

from infra.base.errors import UserError
from pipelines.drawing import negative, sampling


def test_the_half_without_captions_goes_to_the_negative_network() -> None:
    def network(factor: float):  # type: ignore[no-untyped-def]
        def forward(sample: torch.Tensor, timestep: torch.Tensor, **named: object) -> tuple[torch.Tensor]:
            seen.append((factor, len(sample), timestep.ndim, named["embeds"].tolist(), named["added"]["ids"].tolist()))  # type: ignore[attr-defined,index]
            return (sample * factor,)

        return forward

    seen: list[tuple[object, ...]] = []
    joined = negative.guided(network(10.0), network(-1.0))
    (out,) = joined(
        torch.tensor([1.0, 2.0, 1.0, 2.0]),
        torch.tensor(7),
        embeds=torch.tensor([0, 0, 5, 6]),
        added={"ids": torch.tensor([1, 2, 3, 4])},
    )
    assert out.tolist() == [-1.0, -2.0, 10.0, 20.0]
    assert seen == [(-1.0, 2, 0, [0, 0], [1, 2]), (10.0, 2, 0, [5, 6], [3, 4])]


def test_a_network_that_takes_its_images_by_name_is_led_as_well() -> None:
    joined = negative.guided(
        lambda hidden_states, **_: (hidden_states * 10,), lambda hidden_states, **_: (-hidden_states,)
    )
    (out,) = joined(hidden_states=torch.tensor([1.0, 2.0, 1.0, 2.0]), timestep=torch.tensor([7.0, 7.0, 7.0, 7.0]))
    assert out.tolist() == [-1.0, -2.0, 10.0, 20.0]


def drawn(other: str | None) -> np.ndarray:
    pipeline = sampling.load_pipeline(MODEL, torch.float32, "cpu")
    if other:
        negative.attach(pipeline, Path(other), torch.float32, "cpu")
    (image,) = sampling.draw_images(pipeline, ["a large red circle"], [3], 2, 3.0)
    return np.asarray(image, np.int64)


def test_a_model_beside_itself_changes_nothing_and_another_one_does(tmp_path: Path) -> None:
    plain = drawn(None)
    assert np.abs(drawn(str(MODEL)) - plain).max() <= 1  # a batch of one rounds otherwise than one of two
    assert np.abs(drawn(moved_model(tmp_path / "other", 2e-2)) - plain).max() > 1


def test_negative_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    negative.check_negative(MODEL, MODEL, 3.0)
    with pytest.raises(UserError, match="--guidance-scale 1 takes no guidance"):
        negative.check_negative(MODEL, MODEL, 1.0)
    other = Path(moved_model(tmp_path / "other", 0.0))
    index = other / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "FluxPipeline"))
    with pytest.raises(UserError, match="a FluxPipeline, but --model is a StableDiffusionPipeline"):
        negative.check_negative(MODEL, other, 3.0)
