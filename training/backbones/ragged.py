"""Captions of unequal length: the rows that are a caption's own, among those that the store padded to one length.

Store and batches hold [B, L, D] with zeros after each caption's last row, and beside it the number of rows. On the meta
device, where numbers have no values, every caption is as long as the store allows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipelines.latents.text_columns import LENGTH

TEXT = "text_encoder"


def lengths(conditioning: Mapping[str, torch.Tensor]) -> list[int]:
    """Return each caption's number of rows."""
    text = conditioning[TEXT]
    if text.is_meta:
        return [text.shape[1]] * len(text)
    return [int(length) for length in conditioning[LENGTH].flatten().tolist()]


def rows(conditioning: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return each caption's own rows, [L_i, D] each."""
    return [text[:length] for text, length in zip(conditioning[TEXT], lengths(conditioning), strict=True)]


def masked(conditioning: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Cut a batch to its longest caption, and mark the rows that are a caption's own.

    Returns:
        Text [B, longest, D], and a mask [B, longest] int64; None where all captions are equally long, as diffusers has
        it: attention without a mask is another kernel.
    """
    each = lengths(conditioning)
    longest = max(each)
    text = conditioning[TEXT][:, :longest]
    if min(each) == longest:
        return text, None
    place = torch.arange(longest, device=text.device)
    return text, (place < torch.tensor(each, device=text.device)[:, None]).long()
