"""Step of the encoder: captions to embeddings, one column per output of a text encoder.

The arithmetic is the pipeline's own `encode_prompt`; only its output is cut into columns, each encoder's part once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from infra.base import (
    files,
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from pipelines.latents import kinds, schemas, text_columns

import diffusers  # isort: skip


def load_text_pipeline(folder: Path, dtype: torch.dtype, tokens: int) -> Any:
    """Load a pipeline's tokenizers and text encoders and nothing else; without T5 where it has no tokens."""
    models.quiet()
    name = kinds.pipeline_class(folder)
    kind = kinds.kind_of(folder)
    wanted = {part for part in kind.text_encoders if tokens or part != kind.sized}
    wanted |= {kinds.tokenizer_of(part) for part in wanted}
    index = files.read_json(str(folder / "model_index.json"))
    parts = {part for part, about in index.items() if isinstance(about, list)}
    parts |= {kind.sized, kinds.tokenizer_of(kind.sized)} if kind.sized else set()
    others: dict[str, Any] = dict.fromkeys(parts - wanted)
    if "safety_checker" in others:
        others["requires_safety_checker"] = False
    pipeline = getattr(diffusers, name).from_pretrained(folder, dtype=dtype, use_safetensors=True, **others)
    # It would repeat every caption that is too long in the job's log.
    diffusers.utils.logging.get_logger(type(pipeline).__module__).setLevel(diffusers.utils.logging.ERROR)
    return pipeline


class CaptionEncoder:
    """Turn captions into what the network is conditioned on, as the model's own pipeline does."""

    def __init__(
        self,
        model: models.Model,
        batch_size: int,
        dtype: str,
        max_tokens: int | None = None,
        store_dtype: str = "float16",
    ) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        settings = model.folder(())
        self.tokens = kinds.text_tokens(settings, max_tokens)
        self.name = kinds.pipeline_class(settings)
        kind = kinds.kind_of(settings)
        self.parts = kind.frozen(with_sized=bool(self.tokens))[1:]
        folder = model.folder(self.parts)
        self.shapes = text_columns.embedding_shapes(folder, self.tokens)
        self.pipeline = load_text_pipeline(folder, getattr(torch, dtype), self.tokens).to(self.device)
        for part in self.parts:
            models.own_memory(getattr(self.pipeline, part)).eval().requires_grad_(False)
        if self.name == "StableDiffusion3Pipeline" and not self.tokens:
            # Without T5 encode_prompt asks the network how wide the zeros are that it would append, none here.
            with torch.device("meta"):
                network = diffusers.SD3Transformer2DModel
                empty = network.from_config(network.load_config(folder, subfolder=kind.network))
            self.pipeline.register_modules(transformer=empty)
        self.batch_size = batch_size
        self.store_dtype = store_dtype

    def __call__(self, prompts: pa.Table) -> pa.Table:
        """Add each embedding column, its values as one list per caption, to prompt_id and caption."""
        for name, values in self.encode(prompts["caption"].to_pylist()).items():
            prompts = prompts.append_column(name, schemas.value_lists(values.reshape(len(values), -1)))
        return prompts

    @torch.inference_mode()
    def encode(self, captions: list[str]) -> dict[str, schemas.Values]:
        """Encode captions into one [B, ...] array of the store's dtype per column.

        Long captions are cut off as at sampling.

        Raises:
            UserError: if an embedding is beyond the store's dtype, or not finite.
        """
        parts: dict[str, list[schemas.Values]] = {name: [] for name in self.shapes}
        for start in range(0, len(captions), self.batch_size):
            part = captions[start : start + self.batch_size]
            padded = part + [""] * (self.batch_size - len(part))  # one shape always; see LatentEncoder.encode
            outputs = text_columns.encode(self.pipeline, padded, self.shapes, self.device)
            for name, values in outputs.items():
                kept = values[: len(part)].to(getattr(torch, self.store_dtype))
                if not kept.isfinite().all():
                    raise UserError(self._not_finite(name, values))
                parts[name].append(kept.cpu().numpy())
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _not_finite(self, name: str, values: torch.Tensor) -> str:
        flag = "--store-dtype" if values.isfinite().all() else "--dtype"
        return f"{flag}: {name} of {self.name} is not finite in float16; try float32"

    def truncated(self, captions: Sequence[str]) -> int:
        """Count the captions that no text encoder sees whole."""
        return text_columns.count_cut(self.pipeline, self.parts, self.tokens, captions)
