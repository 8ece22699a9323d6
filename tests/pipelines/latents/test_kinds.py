"""The table of pipelines: what a store depends on, what resolution a model was made for, T5's tokens."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from support.material import MODEL

from infra.base.errors import UserError
from pipelines.latents import kinds, text_columns
from pipelines.latents.kinds_known import KINDS, Kind

Pipelines = Callable[[str], Path]


def test_t5_is_frozen_where_it_is_used(tiny_pipeline: Pipelines) -> None:
    kind = kinds.kind_of(tiny_pipeline("sd3"))
    clips = ("vae", "text_encoder", "text_encoder_2")
    assert kind.frozen() == (*clips, "text_encoder_3")
    assert kind.frozen_in(clips) == kind.frozen(with_sized=False) == clips
    assert kind.frozen_in([*clips, "text_encoder_3"]) == (*clips, "text_encoder_3")
    # FLUX can't do without: a store that names no T5 is told so.
    assert KINDS["FluxPipeline"].frozen_in(["vae"]) == ("vae", "text_encoder", "text_encoder_2")
    assert kinds.kind_of(MODEL).frozen() == ("vae", "text_encoder")


def test_t5_sees_as_many_tokens_as_diffusers_gives_it(tiny_pipeline: Pipelines) -> None:
    folders = [tiny_pipeline(name) for name in ("sd3", "sd3-without-t5", "flux", "sdxl")]
    assert [kinds.text_tokens(folder, None) for folder in folders] == [256, 0, 512, 0]
    assert kinds.text_tokens(folders[0], 128) == 128
    assert kinds.text_tokens(folders[0], 0) == 0


def test_a_stores_shapes_tell_its_length(tiny_pipeline: Pipelines) -> None:
    sd3 = kinds.kind_of(tiny_pipeline("sd3"))
    assert kinds.tokens_of(sd3, {"text_encoder_3": (128, 24)}) == 128
    assert kinds.tokens_of(sd3, {"text_encoder": (16, 8)}) == 0
    assert kinds.tokens_of(kinds.kind_of(MODEL), {"text_encoder": (16, 64)}) is None


def test_resolutions_are_the_networks(tiny_pipeline: Pipelines) -> None:
    # 8 latents of 8 pixels; 8 of 2, FLUX's 128 of 2 (its settings do not tell).
    folders = [MODEL, tiny_pipeline("sdxl"), tiny_pipeline("sd3"), tiny_pipeline("flux")]
    assert [kinds.native_resolution(folder) for folder in folders] == [64, 16, 16, 256]


def test_other_pipelines_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    with pytest.raises(UserError, match="a PixArtAlphaPipeline; this trainer knows StableDiffusionPipeline, "):
        kinds.kind_of(tmp_path)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_entry_names_a_backbone_and_a_layout_that_are_there(kind: Kind) -> None:
    module, _, name = kind.backbone.partition(":")
    backbone = getattr(importlib.import_module(module), name)
    assert backbone.network_folder == kind.network
    assert backbone.network_class.__name__ in kind.parts[kind.network]
    assert kind.text in text_columns.LAYOUTS
    assert {*kind.frozen(), kind.network, "scheduler"} <= kind.parts.keys()
    assert kind.sized is None or kind.tokens > 0
