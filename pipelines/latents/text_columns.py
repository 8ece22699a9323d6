"""What a caption becomes: the columns that a store holds of each encoder's output, cut from the pipelines' own outputs.

Where the network masks padding, or makes its own, a caption has as many rows as its tokens (Qwen-Image, Z-Image,
Sana). The store then holds these rows padded with zeros to one length, and beside them a column of their number. All
other columns are read whole, padding included: their networks attend to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipelines.latents import components, kinds, text_templates
from pipelines.latents.kinds_known import KINDS

Shapes = Mapping[str, tuple[int, ...]]  # of each column, per caption
Outputs = dict[str, torch.Tensor]
LENGTH = "text_encoder_length"  # column: of a caption's rows, how many are its tokens
KLEIN_LAYERS = (9, 18, 27)  # of Qwen3, whose hidden states FLUX.2-klein joins; its pipeline's default
JOINED = 3  # hidden states that either FLUX.2 joins


@dataclass(frozen=True)
class Layout:
    """How a kind's captions become columns."""

    shapes: Callable[[Path, int], Shapes]  # of a folder and a number of tokens, see embedding_shapes
    encode: Callable[[Any, list[str], Shapes, str], Outputs]  # by the pipeline's own encode_prompt, see encode
    whole: Callable[[Any, Any, Sequence[str]], tuple[list[str], int]] = lambda _, __, captions: ([*captions], 0)
    """Return, of a pipeline, a tokenizer and captions, the texts that are tokenized, and how many tokens of each are
    not counted against the limit."""
    beside: Callable[[Any], int] = lambda _: 0
    """Return, of a pipeline, how many tokens its encoder reads beyond the limit; settings alone are looked at."""


def embedding_shapes(folder: Path, tokens: int) -> Shapes:
    """Return the shape of each embedding column, per caption; no weights are read.

    Args:
        tokens: of a T5 or a language model, from kinds.text_tokens.
    """
    return LAYOUTS[kinds.kind_of(folder).text].shapes(folder, tokens)


def _setting(folder: Path, part: str, name: str) -> int:
    return int(components.settings(folder, part)[name])


def _clip(folder: Path, part: str) -> tuple[int, int]:
    """Return number and width of a CLIP's hidden states."""
    length = components.open_tokenizer(folder, kinds.tokenizer_of(part)).model_max_length
    return int(length), _setting(folder, part, "hidden_size")


def _clip_shapes(folder: Path, _: int) -> Shapes:
    return {"text_encoder": _clip(folder, "text_encoder")}


def _two_clips_shapes(folder: Path, _: int) -> Shapes:
    return {
        "text_encoder": _clip(folder, "text_encoder"),
        "text_encoder_2": _clip(folder, "text_encoder_2"),
        "text_encoder_2_pooled": (_setting(folder, "text_encoder_2", "projection_dim"),),
    }


def _clips_and_t5_shapes(folder: Path, tokens: int) -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {}
    for part in ("text_encoder", "text_encoder_2"):
        shapes |= {part: _clip(folder, part), f"{part}_pooled": (_setting(folder, part, "projection_dim"),)}
    return shapes | ({"text_encoder_3": (tokens, _setting(folder, "text_encoder_3", "d_model"))} if tokens else {})


def _pooled_and_t5_shapes(folder: Path, tokens: int) -> Shapes:
    return {
        "text_encoder_pooled": (_setting(folder, "text_encoder", "hidden_size"),),
        "text_encoder_2": (tokens, _setting(folder, "text_encoder_2", "d_model")),
    }


def _own_rows_shapes(folder: Path, tokens: int) -> Shapes:
    return {"text_encoder": (tokens, _width(folder)), LENGTH: (1,)}


def _flux_2_shapes(folder: Path, tokens: int) -> Shapes:
    return {"text_encoder": (tokens, JOINED * _width(folder))}


def _width(folder: Path) -> int:
    """Return the width of a language model's hidden states; one that sees images too has it with its text's part."""
    settings = components.settings(folder, "text_encoder")
    return int(settings.get("text_config", settings)["hidden_size"])


def _stable_diffusion(pipeline: Any, captions: list[str], _: Shapes, device: str) -> Outputs:
    """Keep the last hidden state after its final norm, as SD1.5 and SD2.1 condition."""
    return {"text_encoder": pipeline.encode_prompt(captions, device, 1, False)[0]}


def _stable_diffusion_xl(pipeline: Any, captions: list[str], shapes: Shapes, device: str) -> Outputs:
    """Cut the hidden states before the last, which lie side by side, apart; pooled is the second encoder's."""
    hidden, _, pooled, _ = pipeline.encode_prompt(captions, device=device, do_classifier_free_guidance=False)
    width = shapes["text_encoder"][1]
    return {
        "text_encoder": hidden[..., :width],
        "text_encoder_2": hidden[..., width:],
        "text_encoder_2_pooled": pooled,
    }


def _stable_diffusion_3(pipeline: Any, captions: list[str], shapes: Shapes, device: str) -> Outputs:
    """Cut both CLIPs' part, padded to T5's width, from T5's part, which follows it."""
    tokens = shapes["text_encoder_3"][0] if "text_encoder_3" in shapes else 0
    hidden, _, pooled, _ = pipeline.encode_prompt(
        captions, None, None, device=device, do_classifier_free_guidance=False, max_sequence_length=tokens
    )
    length, first = shapes["text_encoder"]
    _, second = shapes["text_encoder_2"]
    split = shapes["text_encoder_pooled"][0]
    outputs = {
        "text_encoder": hidden[:, :length, :first],
        "text_encoder_pooled": pooled[:, :split],
        "text_encoder_2": hidden[:, :length, first : first + second],
        "text_encoder_2_pooled": pooled[:, split:],
    }
    return outputs | ({"text_encoder_3": hidden[:, length:]} if tokens else {})


def _flux(pipeline: Any, captions: list[str], shapes: Shapes, device: str) -> Outputs:
    """Take T5's hidden states and CLIP's pooled output."""
    hidden, pooled, _ = pipeline.encode_prompt(captions, device=device, max_sequence_length=shapes["text_encoder_2"][0])
    return {"text_encoder_pooled": pooled, "text_encoder_2": hidden}


def _qwen_image(pipeline: Any, captions: list[str], shapes: Shapes, device: str) -> Outputs:
    """Encode one caption at a time: beside longer ones its last bits would be others."""
    tokens = shapes["text_encoder"][0]
    rows = [pipeline.encode_prompt([one], device, max_sequence_length=tokens)[0][0] for one in captions]
    return _padded(rows, tokens)


def _z_image(pipeline: Any, captions: list[str], shapes: Shapes, device: str) -> Outputs:
    """Take each caption's rows; the pipeline puts its template in place of the list's captions, so it gets a copy."""
    tokens = shapes["text_encoder"][0]
    rows, _ = pipeline.encode_prompt([*captions], device, False, max_sequence_length=tokens)
    return _padded(rows, tokens)


def _padded(rows: Sequence[torch.Tensor], tokens: int) -> Outputs:
    """Fill each caption's rows [L, D] up with zeros to one length, and count them."""
    filled = [torch.nn.functional.pad(one, (0, 0, 0, tokens - len(one))) for one in rows]
    return {"text_encoder": torch.stack(filled), LENGTH: torch.tensor([[float(len(one))] for one in rows])}


def _flux_2(pipeline: Any, captions: list[str], shapes: Shapes, device: str) -> Outputs:
    """Take all rows, as the network attends to the padding too."""
    hidden, _ = pipeline.encode_prompt([*captions], device, max_sequence_length=shapes["text_encoder"][0])
    return {"text_encoder": hidden}


def _sana(pipeline: Any, captions: list[str], shapes: Shapes, device: str) -> Outputs:
    """Put captions behind the pipeline's instruction, and the empty one alone, as the pipeline guides against it."""
    tokens = shapes["text_encoder"][0]

    def own_rows(texts: list[str], instruction: list[str] | None) -> list[torch.Tensor]:
        options = {"device": device, "max_sequence_length": tokens, "complex_human_instruction": instruction}
        hidden, mask, _, _ = pipeline.encode_prompt(texts, False, **options)
        return [one[: int(kept.sum())] for one, kept in zip(hidden, mask, strict=True)]

    rows = own_rows(captions, text_templates.instruction(pipeline))
    if any(not one.strip() for one in captions):
        empty = own_rows([""], None)[0]
        rows = [row if one.strip() else empty for one, row in zip(captions, rows, strict=True)]
    return _padded(rows, tokens)


LAYOUTS: Mapping[str, Layout] = {
    "clip": Layout(_clip_shapes, _stable_diffusion),
    "two-clips": Layout(_two_clips_shapes, _stable_diffusion_xl),
    "clips-and-t5": Layout(_clips_and_t5_shapes, _stable_diffusion_3),
    "pooled-and-t5": Layout(_pooled_and_t5_shapes, _flux),
    "qwen-image": Layout(
        _own_rows_shapes, _qwen_image, text_templates.qwen_image_whole, text_templates.qwen_image_beside
    ),
    "z-image": Layout(_own_rows_shapes, _z_image, partial(text_templates.chat_whole, thinks=True)),
    "flux2-klein": Layout(_flux_2_shapes, _flux_2, partial(text_templates.chat_whole, thinks=False)),
    "flux2-dev": Layout(_flux_2_shapes, _flux_2, text_templates.flux_2_dev_whole),
    "sana": Layout(_own_rows_shapes, _sana, text_templates.sana_whole, text_templates.sana_beside),
}


def _layout(pipeline: Any) -> Layout:
    """Return the layout of a pipeline's class."""
    return LAYOUTS[KINDS[type(pipeline).__name__].text]


def encode(pipeline: Any, captions: list[str], shapes: Shapes, device: str) -> Outputs:
    """Encode captions as a pipeline's class does, into one [B, ...] tensor per column.

    Args:
        shapes: of the columns, from embedding_shapes.
    """
    return _layout(pipeline).encode(pipeline, captions, shapes, device)


def tokens_beside(folder: Path) -> int:
    """Return about how many tokens a T5 or a language model reads of a caption beyond its limit; no weights are read.

    They are of a template or an instruction whose rows are dropped again.
    """
    pipeline = kinds.empty_pipeline(folder)
    return _layout(pipeline).beside(pipeline)


def token_counts(pipeline: Any, part: str, captions: Sequence[str]) -> list[int]:
    """Count the tokens of whole captions for a text encoder, its template's that count against the limit included."""
    tokenizer = components.words_of(getattr(pipeline, kinds.tokenizer_of(part)))
    texts, dropped = _layout(pipeline).whole(pipeline, tokenizer, captions)
    return [len(ids) - dropped for ids in tokenizer(texts, verbose=False).input_ids]


def count_cut(pipeline: Any, parts: Sequence[str], tokens: int, captions: Sequence[str]) -> int:
    """Count the captions that no text encoder sees whole.

    Args:
        pipeline: with its tokenizers.
        parts: the text encoders that are used.
        tokens: of a T5 or a language model, from kinds.text_tokens.
    """
    sized = KINDS[type(pipeline).__name__].sized
    cut = [True] * len(captions)
    for part in parts:
        limit = tokens if part == sized else getattr(pipeline, kinds.tokenizer_of(part)).model_max_length
        counts = token_counts(pipeline, part, captions)
        cut = [before and count > limit for before, count in zip(cut, counts, strict=True)]
    return sum(cut)


def tokenizers_alone(folder: Path, parts: Sequence[str]) -> Any:
    """Open a folder's pipeline with the tokenizers of its text encoders and nothing that has weights."""
    pipeline = kinds.empty_pipeline(folder)
    for part in parts:
        name = kinds.tokenizer_of(part)
        setattr(pipeline, name, components.open_tokenizer(folder, name))
    return pipeline
