"""Step of the encoder: captions to embeddings, one column per output of a text encoder.

The arithmetic is the pipeline's own `encode_prompt`; only its output is cut into columns, each encoder's part once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from infra.base import (
    files,
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from pipelines.latents import components, kinds, store

import diffusers  # isort: skip

Shapes = Mapping[str, tuple[int, ...]]  # of each column, per caption
Outputs = dict[str, torch.Tensor]


def embedding_shapes(folder: Path, tokens: int) -> Shapes:
    """Return the shape of each embedding column, per caption; no weights are read.

    Args:
        tokens: of T5, from kinds.t5_tokens.
    """

    def setting(part: str, name: str) -> int:
        return int(components.settings(folder, part)[name])

    def clip(part: str, tokenizer: str = "tokenizer") -> tuple[int, int]:
        length = components.open_tokenizer(folder, tokenizer).model_max_length
        return int(length), setting(part, "hidden_size")

    match kinds.pipeline_class(folder):
        case "StableDiffusionXLPipeline":
            return {
                "text_encoder": clip("text_encoder"),
                "text_encoder_2": clip("text_encoder_2", "tokenizer_2"),
                "text_encoder_2_pooled": (setting("text_encoder_2", "projection_dim"),),
            }
        case "StableDiffusion3Pipeline":
            shapes: dict[str, tuple[int, ...]] = {}
            for part in ("text_encoder", "text_encoder_2"):
                shapes |= {part: clip(part), f"{part}_pooled": (setting(part, "projection_dim"),)}
            return shapes | ({"text_encoder_3": (tokens, setting("text_encoder_3", "d_model"))} if tokens else {})
        case "FluxPipeline":
            return {
                "text_encoder_pooled": (setting("text_encoder", "hidden_size"),),
                "text_encoder_2": (tokens, setting("text_encoder_2", "d_model")),
            }
        case _:
            return {"text_encoder": clip("text_encoder")}


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


_ENCODE: Mapping[str, Callable[[Any, list[str], Shapes, str], Outputs]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _stable_diffusion_xl,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "FluxPipeline": _flux,
}


def load_text_pipeline(folder: Path, dtype: torch.dtype, tokens: int) -> Any:
    """Load a pipeline's tokenizers and text encoders and nothing else; without T5 where it has no tokens."""
    models.quiet()
    name = kinds.pipeline_class(folder)
    kind = kinds.kind_of(folder)
    wanted = {part for part in kind.text_encoders if tokens or part != kind.t5}
    wanted |= {kinds.tokenizer_of(part) for part in wanted}
    index = files.read_json(str(folder / "model_index.json"))
    parts = {part for part, about in index.items() if isinstance(about, list)}
    parts |= {kind.t5, kinds.tokenizer_of(kind.t5)} if kind.t5 else set()
    others: dict[str, Any] = dict.fromkeys(parts - wanted)
    if "safety_checker" in others:
        others["requires_safety_checker"] = False
    pipeline = getattr(diffusers, name).from_pretrained(folder, dtype=dtype, use_safetensors=True, **others)
    # It would repeat every caption that is too long in the job's log.
    diffusers.utils.logging.get_logger(type(pipeline).__module__).setLevel(diffusers.utils.logging.ERROR)
    return pipeline


class CaptionEncoder:
    """Turn captions into what the network is conditioned on, as the model's own pipeline does."""

    def __init__(self, model: models.Model, batch_size: int, dtype: str, max_tokens: int | None = None) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        settings = model.folder(())
        self.tokens = kinds.t5_tokens(settings, max_tokens)
        self.name = kinds.pipeline_class(settings)
        kind = kinds.kind_of(settings)
        self.parts = kind.frozen(with_t5=bool(self.tokens))[1:]
        folder = model.folder(self.parts)
        self.shapes = embedding_shapes(folder, self.tokens)
        self.pipeline = load_text_pipeline(folder, getattr(torch, dtype), self.tokens).to(self.device)
        for part in self.parts:
            getattr(self.pipeline, part).eval().requires_grad_(False)
        if self.name == "StableDiffusion3Pipeline" and not self.tokens:
            # Without T5 encode_prompt asks the network how wide the zeros are that it would append, none here.
            with torch.device("meta"):
                network = diffusers.SD3Transformer2DModel
                empty = network.from_config(network.load_config(folder, subfolder=kind.network))
            self.pipeline.register_modules(transformer=empty)
        self.batch_size = batch_size

    def __call__(self, prompts: pa.Table) -> pa.Table:
        """Add each embedding column, its values as one list of float16 per caption, to prompt_id and caption."""
        for name, values in self.encode(prompts["caption"].to_pylist()).items():
            prompts = prompts.append_column(name, store.half_lists(values.reshape(len(values), -1)))
        return prompts

    @torch.inference_mode()
    def encode(self, captions: list[str]) -> dict[str, npt.NDArray[np.float16]]:
        """Encode captions into one [B, ...] float16 array per column; long ones are cut off as at sampling.

        Raises:
            UserError: if an embedding is beyond float16, or not finite.
        """
        parts: dict[str, list[npt.NDArray[np.float16]]] = {name: [] for name in self.shapes}
        for start in range(0, len(captions), self.batch_size):
            part = captions[start : start + self.batch_size]
            padded = part + [""] * (self.batch_size - len(part))  # one shape always; see LatentEncoder.encode
            outputs = _ENCODE[self.name](self.pipeline, padded, self.shapes, self.device)
            for name, values in outputs.items():
                half = values[: len(part)].half()
                if not half.isfinite().all():
                    raise UserError(f"--dtype: {name} of {self.name} is not finite in float16; try float32")
                parts[name].append(half.cpu().numpy())
        return {name: np.concatenate(values) for name, values in parts.items()}

    def truncated(self, captions: Sequence[str]) -> int:
        """Count the captions that no text encoder sees whole."""
        whole = np.zeros(len(captions), bool)
        for part in self.parts:
            tokenizer = getattr(self.pipeline, kinds.tokenizer_of(part))
            limit = self.tokens if part == kinds.KINDS[self.name].t5 else tokenizer.model_max_length
            whole |= np.array([len(ids) <= limit for ids in tokenizer(list(captions)).input_ids])
        return int((~whole).sum())
