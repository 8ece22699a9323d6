"""CLIP's two towers in memory: images and captions to unit vectors.

A model is loaded once per process and set of files, whichever scorers use it, and embeds a caption once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from PIL import Image
from torch.nn import functional as F

from infra.base import cpu
from labelers.clips import weights

CAPTIONS_KEPT = 16_384  # per tower; 64 MiB at ViT-H-14's 1,024 numbers
IMAGES_AT_ONCE = 64

Preprocess = Callable[[Sequence[Image.Image]], torch.Tensor]  # RGB images to [B, 3, S, S] float32, normalised


class ClipFiles(Protocol):
    """The files of one CLIP, in one of the two libraries' formats."""

    @property
    def preprocess(self) -> Preprocess:
        """Return the library's own image preprocessing for it."""
        ...

    @property
    def logit_scale(self) -> float:
        """Return exp(logit_scale) of the weights, read without the rest."""
        ...

    @property
    def image_size(self) -> int:
        """Return the side of the image tower's input, pixels."""
        ...

    def paths(self) -> list[Path]:
        """Return all files that decide what it embeds."""
        ...

    def check(self) -> None:
        """Refuse files that are missing, hold code or do not fit together, with a UserError, reading no weights."""
        ...

    def load(self) -> Tower:
        """Load it."""
        ...


class CaptionCache:
    """Embeds each caption once, and forgets the least recently used beyond a bound."""

    def __init__(self, embed: Callable[[list[str]], torch.Tensor], bound: int = CAPTIONS_KEPT) -> None:
        self.embed = embed
        self.bound = bound
        self.kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Return the captions' embeddings, [B, d]."""
        missing = [caption for caption in dict.fromkeys(captions) if caption not in self.kept]
        rows = {caption: self.kept[caption] for caption in captions if caption in self.kept}
        if missing:
            # Cloned: a row that is a view would keep its whole batch alive.
            rows |= {c: row.clone() for c, row in zip(missing, self.embed(missing), strict=True)}
        for caption in captions:
            self.kept[caption] = rows[caption]
            self.kept.move_to_end(caption)
        while len(self.kept) > self.bound:
            self.kept.popitem(last=False)
        return torch.stack([rows[caption] for caption in captions])


class Tower:
    """A CLIP in memory, on the GPU where there is one, float32."""

    def __init__(
        self,
        model: torch.nn.Module,
        encode_images: Callable[[torch.Tensor], torch.Tensor],
        encode_captions: Callable[[list[str]], torch.Tensor],
        token_ids: Callable[[str], Sequence[int]],
        context: int,
    ) -> None:
        if device() == "cpu":
            cpu.keep_freed_memory()
            cpu.pack_linears(model)
            # The convolution of the patches, as their pixels lie in memory.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model
        self.encode_images = encode_images
        self.captions = CaptionCache(lambda captions: F.normalize(encode_captions(captions), dim=-1))
        self.token_ids = token_ids
        self.context = context

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image], preprocess: Preprocess) -> torch.Tensor:
        """Embed images, [B, d] float32 of length 1."""
        parts = []
        for start in range(0, len(images), IMAGES_AT_ONCE):
            pixels = preprocess(images[start : start + IMAGES_AT_ONCE])
            parts.append(F.normalize(self.encode_images(pixels.to(device())), dim=-1))
        return torch.cat(parts)

    @torch.inference_mode()
    def embed_captions(self, captions: Sequence[str]) -> torch.Tensor:
        """Embed captions, [B, d] float32 of length 1, each only once."""
        return self.captions(captions)

    def truncated(self, captions: Sequence[str]) -> int:
        """Count the captions that the text tower does not read to their end.

        They have more tokens than it reads, start and end included, or hold the end token's own text: the embedding is
        that of the first end token.
        """
        end = self.token_ids("")[-1]

        def is_cut(ids: Sequence[int]) -> bool:
            return len(ids) > self.context or end in ids[:-1]

        return sum(is_cut(self.token_ids(caption)) for caption in captions)


class ClassTokenLayer(torch.nn.Module):
    """The last layer of an image tower, computed for its class token alone, the only one that is read.

    No other token's key or value is computed: q·(Kx) = (Kᵀq)·x, and Σa(Vx + v) = V(Σax) + v as Σa = 1. A key's bias
    adds the same to every logit, which softmax cancels.
    """

    def __init__(
        self,
        norms: tuple[torch.nn.Module, torch.nn.Module],
        weight: torch.Tensor,
        bias: torch.Tensor,
        heads: int,
        output: torch.nn.Module,
        mlp: torch.nn.Module,
    ) -> None:
        """Take a layer apart; weight [3D, D] and bias [3D] are those of queries, keys and values, in this order."""
        super().__init__()
        self.before_attention, self.before_mlp = norms
        self.query, self.key, self.value = weight.unflatten(0, (3, heads, -1))  # each [heads, D / heads, D]
        self.query_bias, _, self.value_bias = bias.unflatten(0, (3, heads, -1))
        self.output = output
        self.mlp = mlp

    def forward(self, tokens: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """Return the class token [B, 1, D] of tokens [B, T, D] whose first it is, float32."""
        seen = self.before_attention(tokens)
        queries = torch.einsum("bw,hdw->bhd", seen[:, 0], self.query) + self.query_bias
        logits = torch.einsum("bhd,hdw->bhw", queries, self.key) @ seen.mT / self.query.shape[1] ** 0.5
        values = torch.einsum("bhw,hdw->bhd", logits.softmax(-1) @ seen, self.value) + self.value_bias
        token = tokens[:, 0] + self.output(values.flatten(1))
        return (token + self.mlp(self.before_mlp(token))).unsqueeze(1)


def normalised(images: Sequence[Image.Image], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return (pixels / 255 - mean) / std of RGB images of one size, [B, 3, H, W] float32, channels last in memory.

    Args:
        images: RGB, all of one size.
        mean: of red, green and blue, 0..1.
        std: likewise.
    """
    width, height = images[0].size
    rows = stacked(images).view(len(images), height, width * 3).float().div_(255)
    # A row at a time: torch is slow at dimensions of three numbers.
    rows.sub_(torch.tensor(mean).repeat(width)).div_(torch.tensor(std).repeat(width))
    return rows.view(len(images), height, width, 3).permute(0, 3, 1, 2)


def stacked(images: Sequence[Image.Image]) -> torch.Tensor:
    """Return RGB images of one size as [B, H, W, 3] uint8."""
    (width, height), *others = {image.size for image in images}
    if others:
        raise ValueError(f"images of several sizes ({width}x{height} and others) cannot be stacked")
    pixels = bytearray().join(image.tobytes() for image in images)
    return torch.frombuffer(pixels, dtype=torch.uint8).view(len(images), height, width, 3)


_towers: WeakValueDictionary[Any, Tower] = WeakValueDictionary()


def tower(clip: ClipFiles) -> Tower:
    """Return the tower of a CLIP's files, loading it unless a living scorer has it already."""
    key = (type(clip), weights.identity(clip.paths()))
    loaded = _towers.get(key)
    if loaded is None:
        loaded = clip.load()
        _towers[key] = loaded
    return loaded


def device() -> str:
    """Return where models run: on the GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
