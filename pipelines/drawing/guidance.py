"""Classifier-free guidance, as each pipeline takes its scale."""

from __future__ import annotations

from typing import Any


def guidance(name: str, scale: float, images: int) -> dict[str, Any]:
    """Say a scale of classifier-free guidance as a pipeline takes it: its network's output is u + scale (c - u).

    Z-Image's pipeline computes c + g (c - u), so its g is one less. Qwen-Image's guides only against a caption that it
    is given, and calls the scale otherwise.

    Args:
        name: of the pipeline's class.
    """
    if name.startswith("ZImage"):
        return {"guidance_scale": max(0.0, scale - 1)}
    if name.startswith("QwenImage"):
        return {"true_cfg_scale": scale, "negative_prompt": [" "] * images} if scale > 1 else {"true_cfg_scale": 1.0}
    return {"guidance_scale": scale}
