"""Edits and the refiner, on tiny random pipelines of the real classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.material import MODEL
from support.tiny_pipelines import KINDS, RESOLUTIONS, TOKENS

from infra.base.errors import UserError
from pipelines.drawing.sampling import Edit, Refiner, check_refiner, draw_images, load_pipeline
from pipelines.drawing.steps import check_steps

Pipelines = Callable[[str], Path]
CAPTIONS = ["a red star", "a big teal ring"]
NO_EDITS = ("flux2-klein", "flux2-dev", "sana")


def pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image, int)


def steps_taken(pipeline: Any) -> list[float]:
    """Note the timesteps at which a pipeline's network is called from now on."""
    network, taken = getattr(pipeline, "unet", None) or pipeline.transformer, list[float]()

    def note(_: Any, given: Any, named: Any) -> None:
        taken.append(float(torch.as_tensor(named["timestep"] if "timestep" in named else given[1]).flatten()[0]))

    network.register_forward_pre_hook(note, with_kwargs=True)
    return taken


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NO_EDITS])
def test_each_kind_edits_from_a_start_image(kind: str, tiny_pipeline: Pipelines) -> None:
    tokens = (TOKENS | {"sd3-without-t5": 0}).get(kind)
    pipeline: Any = load_pipeline(tiny_pipeline(kind), torch.float32, "cpu", tokens, edits=True)
    assert type(pipeline).__name__.endswith("Img2ImgPipeline")
    if kind in ("flux", "qwen-image"):
        pipeline.default_sample_size = 8  # their own 128 would take most of the suite's time
    taken = steps_taken(pipeline)
    side = RESOLUTIONS.get(kind, 16)
    red, blue = (Image.new("RGB", (side, side), colour) for colour in ("red", "blue"))
    both = draw_images(pipeline, CAPTIONS, [5, 6], 2, 2.0, tokens, Edit([red, blue], 0.5))
    # One of two steps, in which Qwen-Image's network is called once for each of two captions.
    assert len(taken) == (2 if kind == "qwen-image" else 1)
    assert both[1].size == (side, side)
    alone = draw_images(pipeline, CAPTIONS[1:], [6], 2, 2.0, tokens, Edit([blue], 0.5))[0]
    assert np.abs(pixels(both[1]) - pixels(alone)).max() <= 2  # rounding of another batch size
    other = draw_images(pipeline, CAPTIONS[1:], [6], 2, 2.0, tokens, Edit([red], 0.5))[0]
    assert not np.array_equal(pixels(other), pixels(alone))


def test_a_model_that_refers_to_images_edits_none(tiny_pipeline: Pipelines) -> None:
    with pytest.raises(UserError, match=r"a Flux2KleinPipeline is given images to refer to, and takes no --strength"):
        load_pipeline(tiny_pipeline("flux2-klein"), torch.float32, "cpu", 77, edits=True)
    with pytest.raises(UserError, match=r"diffusers has no pipeline that a SanaPipeline edits with; edit with another"):
        load_pipeline(tiny_pipeline("sana"), torch.float32, "cpu", 77, edits=True)


@pytest.mark.parametrize("kind", ["z-image", "qwen-image"])
def test_a_guidance_of_1_is_none(kind: str, tiny_pipeline: Pipelines) -> None:
    pipeline: Any = load_pipeline(tiny_pipeline(kind), torch.float32, "cpu", 77)
    seen: list[int] = []

    def count(_: Any, given: Any, named: Any) -> None:
        seen.append(len(given[0]) if given else len(named["hidden_states"]))

    pipeline.transformer.register_forward_pre_hook(count, with_kwargs=True)
    pipeline.vae.decode = lambda latents, **_: (torch.zeros(1, 3, *latents.shape[2:]),)
    draw_images(pipeline, CAPTIONS[:1], [5], 2, 1.0, 77)
    assert seen == [1, 1]  # two steps, with the caption alone
    seen.clear()
    draw_images(pipeline, CAPTIONS[:1], [5], 2, 3.0, 77)
    # Z-Image's pipeline has both captions in one pass, Qwen-Image's makes two.
    assert seen == ([2, 2] if kind == "z-image" else [1, 1, 1, 1])


def test_one_step_of_a_stretched_schedule_is_refused(tiny_pipeline: Pipelines) -> None:
    check_steps(tiny_pipeline("qwen-image"), 2)
    with pytest.raises(UserError, match=r"--sampling-steps 1: .* draws NaN with a single one; give 2 or more"):
        check_steps(tiny_pipeline("qwen-image"), 1)


def test_less_strength_stays_nearer_to_the_start_image() -> None:
    pipeline = load_pipeline(MODEL, torch.float32, "cpu", edits=True)
    caption, start = "a big red circle on a teal background", Image.new("RGB", (64, 64), "teal")
    edits = [draw_images(pipeline, [caption], [5], 10, 3.0, edit=Edit([start], s))[0] for s in (0.1, 0.5, 1.0)]
    away = [np.abs(pixels(edit) - pixels(start)).mean() for edit in edits]
    assert away[0] < away[1] < away[2]


def test_a_policy_edits_from_the_base_s_noise() -> None:
    # One denoising step's input is start image and noise alone: the same for every network.
    start, seen = Image.new("RGB", (64, 64), "teal"), []
    for scale in (1.0, 2.0):
        pipeline: Any = load_pipeline(MODEL, torch.float32, "cpu", edits=True)
        with torch.no_grad():
            pipeline.unet.conv_out.weight.mul_(scale)
        hook = pipeline.unet.register_forward_pre_hook(lambda _, given: seen.append(given[0][0].clone()))
        draw_images(pipeline, ["a small white cross on a black background"], [7], 2, 3.0, edit=Edit([start], 0.5))
        hook.remove()
    assert len(seen) == 2  # one step of two each
    assert torch.equal(seen[0], seen[1])


def test_the_refiner_takes_the_last_steps(tiny_pipeline: Pipelines) -> None:
    base = load_pipeline(tiny_pipeline("sdxl"), torch.float32, "cpu")
    loaded = load_pipeline(tiny_pipeline("sdxl-refiner"), torch.float32, "cpu")
    first, last = steps_taken(base), steps_taken(loaded)
    refined = draw_images(base, CAPTIONS, [5, 6], 5, 2.0, refiner=Refiner(loaded, 0.6))
    assert (first, last) == ([800, 600, 400], [200, 0])  # down to 1000 - 0.6 x 1000, and below
    alone = draw_images(base, CAPTIONS[1:], [6], 5, 2.0, refiner=Refiner(loaded, 0.6))[0]
    assert np.abs(pixels(refined[1]) - pixels(alone)).max() <= 2
    assert not np.array_equal(pixels(refined[1]), pixels(draw_images(base, CAPTIONS[1:], [6], 5, 2.0)[0]))


def test_an_edit_is_refined(tiny_pipeline: Pipelines) -> None:
    base = load_pipeline(tiny_pipeline("sdxl"), torch.float32, "cpu", edits=True)
    loaded = load_pipeline(tiny_pipeline("sdxl-refiner"), torch.float32, "cpu")
    first, last = steps_taken(base), steps_taken(loaded)
    edit = Edit([Image.new("RGB", (16, 16), "red")], 0.8)
    draw_images(base, CAPTIONS[:1], [5], 5, 2.0, edit=edit, refiner=Refiner(loaded, 0.6))
    assert (first, last) == ([600, 400], [200, 0])


def test_refiners_that_do_not_fit_are_refused(tiny_pipeline: Pipelines) -> None:
    base, refiner = tiny_pipeline("sdxl"), tiny_pipeline("sdxl-refiner")
    check_refiner(base, refiner, 5, 0.6)
    with pytest.raises(UserError, match=r"--model .*: a StableDiffusionPipeline; a refiner is a "):
        check_refiner(MODEL, refiner, 5, 0.6)
    with pytest.raises(UserError, match=r"--refiner .*: a StableDiffusionXLPipeline; a refiner is a "):
        check_refiner(base, base, 5, 0.6)
    with pytest.raises(UserError, match=r"--refiner-start 0\.1: leaves the model none of 5 sampling steps"):
        check_refiner(base, refiner, 5, 0.1)  # the first of the five is at 800 of 1000
    with pytest.raises(UserError, match=r"--refiner-start 0\.5: leaves the model none of 5 sampling steps"):
        check_refiner(base, refiner, 5, 0.5, strength=0.4)  # which begins at 200
    with pytest.raises(UserError, match=r"--refiner-start 0\.9999: leaves the refiner none of 5 sampling steps"):
        check_refiner(base, refiner, 5, 0.9999)


@pytest.mark.chaos
@pytest.mark.parametrize("broken", ["unet", "vae"])
def test_images_that_are_not_finite_are_refused_and_not_drawn_black(broken: str) -> None:
    pipeline: Any = load_pipeline(MODEL, torch.float32, "cpu")
    with torch.no_grad():
        list(getattr(pipeline, broken).parameters())[-1].fill_(float("nan"))
    with pytest.raises(
        UserError, match=r"--dtype: 2 of 2 images are not finite in float32 .*black; try --dtype float32"
    ):
        draw_images(pipeline, CAPTIONS, [5, 6], 1, 1.0)


@pytest.mark.parametrize(
    ("steps", "fitting"),
    [
        (501, 500),  # spacing 1000 // 501 = 1: the first timestep is 500 * 1 + 1 = 501; of 500 it is 499 * 2 + 1 = 999
        (600, 500),
        (1000, 999),  # 999 * 1 + 1 = 1000, which is no timestep
        (2000, 999),
        (400, 333),  # 399 * 2 + 1 = 799; of 333 it is 332 * 3 + 1 = 997
    ],
)
def test_steps_that_would_not_start_from_noise_are_refused(steps: int, fitting: int) -> None:
    with pytest.raises(UserError, match=rf"--sampling-steps {steps}: .* give {fitting}, for example"):
        check_steps(MODEL, steps)


@pytest.mark.parametrize("steps", [1, 2, 4, 12, 20, 25, 28, 30, 50, 70, 100, 250, 333])
def test_usual_numbers_of_steps_pass(steps: int) -> None:
    check_steps(MODEL, steps)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_s_own_scheduler_is_asked(kind: str, tiny_pipeline: Pipelines) -> None:
    check_steps(tiny_pipeline(kind), 4)


def test_steps_beyond_those_of_a_solver_are_refused_with_those_that_it_takes(tmp_path: Path) -> None:
    (tmp_path / "scheduler").mkdir()
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "LCMScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{}")
    check_steps(tmp_path, 50)
    with pytest.raises(UserError, match=r"--sampling-steps 51: .* give 50, for example"):
        check_steps(tmp_path, 51)
