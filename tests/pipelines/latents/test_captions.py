"""Stored columns are what the pipeline's own encode_prompt gives, cut apart; T5's length is chosen, or T5 left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.material import MODEL
from support.tiny_pipelines import KINDS, NEW, OLDER, TOKENS

from infra.base.errors import UserError
from infra.base.models import Model
from pipelines.drawing import sampling
from pipelines.latents import kinds, schemas, text_columns
from pipelines.latents.captions import CaptionEncoder
from pipelines.latents.text_columns import embedding_shapes
from training.backbones.backbone import open_backbone
from training.backbones.flow import StableDiffusion3
from training.backbones.schedule_config import ScheduleConfig

CAPTIONS = ["a big red circle on a teal background", "", "a small white star"]
Pipelines = Callable[[str], Path]


def conditioning(folder: Path, tokens: int | None) -> dict[str, torch.Tensor]:
    encoded = CaptionEncoder(Model(str(folder)), 2, "float32", tokens).encode(CAPTIONS)
    return {name: torch.from_numpy(values.astype(np.float32)) for name, values in encoded.items()}


def assembled(kind: str, folder: Path, stored: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Catch what a backbone gives its network as hidden states and pooled output."""
    given: dict[str, Any] = {}

    class Network(torch.nn.Module):
        def forward(self, *_: torch.Tensor, **arguments: Any) -> tuple[torch.Tensor]:
            given.update(arguments)
            return (torch.zeros(3, 16, 64) if kind == "flux" else torch.zeros(3, 4, 8, 8),)

    noisy = torch.zeros(3, 16 if kind in ("sd3", "sd3-without-t5", "flux") else 4, 8, 8)
    open_backbone(folder, ScheduleConfig()).predict(Network(), noisy, torch.tensor([1, 2, 3]), stored)
    pooled = given.get("pooled_projections", given.get("added_cond_kwargs", {}).get("text_embeds"))
    return given["encoder_hidden_states"], pooled


@pytest.mark.parametrize("kind", OLDER)  # the others' columns stand in test_hand_vectors.py
def test_the_columns_put_together_are_what_the_pipeline_is_conditioned_on(kind: str, tiny_pipeline: Pipelines) -> None:
    folder = tiny_pipeline(kind)
    hidden, pooled = assembled(kind, folder, conditioning(folder, TOKENS.get(kind)))
    pipeline: Any = sampling.load_pipeline(folder, torch.float32, "cpu")
    expected: Any
    with torch.no_grad():
        match kind:
            case "sd-v":
                expected = pipeline.encode_prompt(CAPTIONS, "cpu", 1, False)[0], None
            case "sdxl" | "sdxl-turbo":
                expected = pipeline.encode_prompt(CAPTIONS, do_classifier_free_guidance=False)[::2]
            case "flux":
                expected = pipeline.encode_prompt(CAPTIONS, max_sequence_length=77)[:2]
            case _:
                expected = pipeline.encode_prompt(
                    CAPTIONS, None, None, do_classifier_free_guidance=False, max_sequence_length=TOKENS.get(kind, 256)
                )[::2]
    assert hidden.shape == expected[0].shape
    assert torch.allclose(hidden, expected[0], rtol=1e-3, atol=1e-5)  # float16 keeps 11 bits
    assert (pooled is None) == (expected[1] is None)
    if pooled is not None:
        assert torch.allclose(pooled, expected[1], rtol=1e-3, atol=1e-5)
        assert pooled.std() > 0.1  # not all captions, nor nothing


def test_the_shapes_are_known_before_a_model_loads(tiny_pipeline: Pipelines) -> None:
    for kind in KINDS:
        folder = tiny_pipeline(kind)
        tokens = TOKENS.get(kind)
        encoder = CaptionEncoder(Model(str(folder)), 1, "float32", tokens)
        found = {name: values.shape[1:] for name, values in encoder.encode(["a star"]).items()}
        assert found == dict(embedding_shapes(folder, kinds.text_tokens(folder, tokens)))
    flux = tiny_pipeline("flux")
    by_default = dict(embedding_shapes(flux, kinds.text_tokens(flux, None)))
    assert by_default == {"text_encoder_pooled": (8,), "text_encoder_2": (512, 24)}
    assert embedding_shapes(MODEL, 0) == {"text_encoder": (16, 64)}


def test_a_caption_does_not_depend_on_its_batch(tiny_pipeline: Pipelines) -> None:
    encoder = CaptionEncoder(Model(str(tiny_pipeline("sdxl"))), 2, "float32")
    together, alone = encoder.encode(CAPTIONS), encoder.encode(CAPTIONS[2:])
    assert all(np.array_equal(together[name][2:], alone[name]) for name in together)


def test_columns_are_lists_of_half_precision(tiny_pipeline: Pipelines) -> None:
    encoder = CaptionEncoder(Model(str(tiny_pipeline("sdxl"))), 4, "float32")
    table = encoder(pa.table({"prompt_id": [1, 2, 3], "caption": CAPTIONS}))
    assert table.schema.field("text_encoder_2").type == pa.list_(pa.float16(), 16 * 12)
    values = encoder.encode(CAPTIONS)["text_encoder_2"]
    assert np.array_equal(schemas.value_rows(table["text_encoder_2"]).reshape(values.shape), values)


def test_without_t5_the_network_sees_zeros_in_its_place(tiny_pipeline: Pipelines) -> None:
    folder = tiny_pipeline("sd3")
    stored = conditioning(folder, 0)
    assert "text_encoder_3" not in stored
    text = StableDiffusion3(folder).text(stored)
    assert text.shape == (3, 16 + 256, 24)
    assert not text[:, 16:].any()
    assert not text[:, :16, 20:].any()  # the CLIPs' 8 + 12 values, padded to T5's 24
    assert all(torch.equal(values, conditioning(folder, 77)[name]) for name, values in stored.items())


def test_a_caption_is_cut_off_where_no_encoder_sees_it_whole(tiny_pipeline: Pipelines) -> None:
    captions = ["a star", "a red star " * 8, "a red star " * 60]  # 24 words are too many for CLIP's 16 tokens
    assert CaptionEncoder(Model(str(tiny_pipeline("sdxl"))), 4, "float32").truncated(captions) == 2
    assert CaptionEncoder(Model(str(tiny_pipeline("flux"))), 4, "float32", 77).truncated(captions) == 1
    for kind in NEW:  # their templates' tokens count too, without the dropped ones
        folder = tiny_pipeline(kind)
        alone = text_columns.tokenizers_alone(folder, ["text_encoder"])
        around = {"qwen-image": 5, "z-image": 5, "flux2-klein": 6, "flux2-dev": 28, "sana": 2}[kind]
        fits = " ".join(["star"] * (77 - around))
        assert text_columns.token_counts(alone, "text_encoder", ["", fits]) == [around, 77]
        assert text_columns.count_cut(alone, ["text_encoder"], 77, [fits, f"{fits} star"]) == 1


def test_embeddings_beyond_half_precision_are_refused(tiny_pipeline: Pipelines) -> None:
    encoder = CaptionEncoder(Model(str(tiny_pipeline("flux"))), 4, "float32", 77)
    encoder.pipeline.text_encoder_2.encoder.final_layer_norm.weight.fill_(1e6)
    with pytest.raises(UserError, match="text_encoder_2 of FluxPipeline is not finite in float16"):
        encoder.encode(["a star"])


@pytest.mark.parametrize(
    ("kind", "wanted", "told"),
    [
        ("sdxl", 128, "--max-tokens 128: .* has no T5 or language model"),
        ("sd3-without-t5", 77, "--max-tokens 77: .* has no T5 or language model"),
        ("flux", 0, "--max-tokens 0: a FluxPipeline can't do without"),
    ],
)
def test_lengths_that_make_no_sense_are_refused(kind: str, wanted: int, told: str, tiny_pipeline: Pipelines) -> None:
    with pytest.raises(UserError, match=told):
        kinds.text_tokens(tiny_pipeline(kind), wanted)
