"""The kinds of pipelines: which parts a store depends on, which part is trained, and how long T5's captions are."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.base import (
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from pipelines.latents import components

import diffusers  # isort: skip

VAE = "vae"
REFINED = "StableDiffusionXLPipeline"  # SDXL
REFINER = "StableDiffusionXLImg2ImgPipeline"  # its second model


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is known of a pipeline by its class."""

    network: str  # the part that is trained
    text_encoders: tuple[str, ...]  # in the pipeline's own order
    t5: str | None = None  # which of them is a T5: its captions' length can be chosen
    t5_optional: bool = False  # its place may be filled with zeros
    t5_tokens: int = 0  # diffusers' own length
    patch: int = 1  # side of the patches that the network cuts latents into

    def frozen(self, with_t5: bool = True) -> tuple[str, ...]:
        """Name the parts whose outputs a store holds."""
        return (VAE, *(name for name in self.text_encoders if with_t5 or name != self.t5))

    def frozen_in(self, store: Collection[str]) -> tuple[str, ...]:
        """Name the parts that a store must hold the outputs of, by those that it names; only T5 may be missing."""
        return self.frozen(with_t5=self.t5 in store or not self.t5_optional)


KINDS = {
    "StableDiffusionPipeline": Kind(network="unet", text_encoders=("text_encoder",)),
    "StableDiffusionXLPipeline": Kind(network="unet", text_encoders=("text_encoder", "text_encoder_2")),
    "StableDiffusion3Pipeline": Kind(
        network="transformer",
        text_encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
        t5="text_encoder_3",
        t5_optional=True,
        t5_tokens=256,
        patch=2,
    ),
    "FluxPipeline": Kind(
        network="transformer",
        text_encoders=("text_encoder", "text_encoder_2"),
        t5="text_encoder_2",
        t5_tokens=512,
        patch=2,
    ),
}


def pipeline_class(folder: Path) -> str:
    """Read the class of a diffusers folder.

    Raises:
        UserError: if it is none that can be encoded for and trained.
    """
    name = components.read_index(folder)["_class_name"]
    if name not in KINDS:
        raise UserError(f"--model {folder}: a {name}; this trainer knows {', '.join(KINDS)}")
    return name


def kind_of(folder: Path) -> Kind:
    """Return the kind of a diffusers folder.

    Raises:
        UserError: if it is none that can be encoded for and trained.
    """
    return KINDS[pipeline_class(folder)]


def t5_tokens(folder: Path, wanted: int | None) -> int:
    """Return how many tokens T5 sees of a caption; 0 where there is no T5, or it is left out.

    Args:
        wanted: as the user chose; None for the pipeline's own length.

    Raises:
        UserError: if the model has no T5 to choose it for, or can't do without.
    """
    kind = kind_of(folder)
    present = kind.t5 is not None and bool(models.component_config(folder, kind.t5))
    if wanted and not present:
        raise UserError(f"--max-tokens {wanted}: {folder} has no T5 text encoder")
    if not present and kind.t5_optional:
        return 0
    if wanted == 0 and not kind.t5_optional:
        raise UserError(f"--max-tokens 0: a {pipeline_class(folder)} can't do without its text encoders")
    return kind.t5_tokens if wanted is None else wanted


def tokenizer_of(text_encoder: str) -> str:
    """Name a text encoder's tokenizer."""
    return text_encoder.replace("text_encoder", "tokenizer")


def tokens_of(kind: Kind, embeddings: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return how many tokens T5 sees in a store, by the shapes of its embeddings; None for models without T5."""
    return None if kind.t5 is None else embeddings.get(kind.t5, (0,))[0]


class _Settings(diffusers.ConfigMixin):
    """A part that has settings and nothing else, to build a pipeline from."""

    config_name = "config.json"

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.register_to_config(**settings)


def _empty_pipeline(folder: Path) -> Any:
    """Build a folder's pipeline of its network's and its VAE's settings alone.

    Its constructor corrects settings that old checkpoints have wrong, for example a sample_size of 32 that is 64.
    """
    name = pipeline_class(folder)
    opened_by = getattr(diffusers, name)
    parameters = inspect.signature(opened_by.__init__).parameters
    given: dict[str, Any] = {part: None for part in parameters if part in components.KNOWN[name]}
    given |= {part: None for part in ("safety_checker", "feature_extractor") if part in parameters}
    for part in (KINDS[name].network, VAE):
        given[part] = _Settings(components.settings(folder, part))
    if "requires_safety_checker" in parameters:
        given["requires_safety_checker"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the correction
        return opened_by(**given)


def pixels_per_latent(folder: Path) -> int:
    """Return the side of the square of pixels that one latent position stands for."""
    return int(_empty_pipeline(folder).vae_scale_factor)


def native_resolution(folder: Path) -> int:
    """Return the side in pixels of the images that a model was made for, which its pipeline draws.

    Raises:
        UserError: if its network's settings name no such side, or two.
    """
    pipeline = _empty_pipeline(folder)
    network = kind_of(folder).network
    side = getattr(pipeline, "default_sample_size", None) or getattr(pipeline, network).config["sample_size"]
    file = folder / network / "config.json"
    if isinstance(side, list | tuple) and len(set(side)) == 1 and not hasattr(pipeline, "default_sample_size"):
        side = side[0]
    if not isinstance(side, int):
        raise UserError(f"{file}: sample_size is {side}; give one number, the side of the square latents")
    return side * int(pipeline.vae_scale_factor)
