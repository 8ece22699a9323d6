"""The words of the embedded world's captions, and the tokenizer that gives each a token of its own."""

from __future__ import annotations

from tokenizers import pre_tokenizers

from infra.base import (
    torchvision_guard,  # noqa: F401  (before transformers)
)
from infra.world.shapes import COLOURS, RADII, SHAPES

from transformers import CLIPTokenizer  # isort: skip

WORDS = ("a", "on", "background", *RADII, *COLOURS, *SHAPES)
MAX_TOKENS = 16


def build_tokenizer() -> CLIPTokenizer:
    """Make a CLIP tokenizer with one token for each of the world's words; other text falls back to single bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*alphabet, *(character + "</w>" for character in alphabet)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:  # merge from the left: r+e, re+d</w>
            merge = (pieces[0], pieces[1])
            pieces[:2] = [pieces[0] + pieces[1]]
            if merge not in merges:
                merges.append(merge)
                vocabulary.append(pieces[0])
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    numbered = {token: index for index, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=numbered, merges=merges, model_max_length=MAX_TOKENS)
