"""The kind of a diffusers folder, by its pipeline's class: how long its captions are, and the size of its images."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.base import models
from infra.base.errors import UserError
from pipelines.latents import components
from pipelines.latents.kinds_known import KINDS, VAE, Kind

REFINED = "StableDiffusionXLPipeline"  # SDXL
REFINER = "StableDiffusionXLImg2ImgPipeline"  # its second model


# Words in the names of pipelines of known families that take more than a caption, and what they take.
VARIANTS = {
    "Edit": "an image to edit",
    "Inpaint": "an image and a mask",
    "Img2Img": "an image to start from",
    "ControlNet": "a control image",
    "Control": "a control image",
    "Kontext": "an image to edit",
    "Fill": "an image and a mask",
    "Redux": "an image to vary",
    "Layered": "layers",
    "Omni": "images among the words",
    "KV": "images to refer to",
    "Sprint": "its guidance",
}


def pipeline_class(folder: Path) -> str:
    """Read the class of a diffusers folder.

    Raises:
        UserError: if it is none that can be encoded for and trained.
    """
    name = components.read_index(folder)["_class_name"]
    if name not in KINDS:
        given = next(
            (f", which is given {what} beside a caption" for word, what in VARIANTS.items() if word in name), ""
        )
        raise UserError(f"--model {folder}: a {name}{given}; this trainer knows {', '.join(KINDS)}")
    return name


def is_known(folder: Path) -> bool:
    """Say whether a diffusers folder is of a kind that is encoded for and trained."""
    return components.read_index(folder)["_class_name"] in KINDS


def kind_of(folder: Path) -> Kind:
    """Return the kind of a diffusers folder.

    Raises:
        UserError: if it is none that can be encoded for and trained.
    """
    return KINDS[pipeline_class(folder)]


def text_tokens(folder: Path, wanted: int | None) -> int:
    """Return how many tokens the T5 or the language model sees of a caption; 0 where there is none, or it is left out.

    Args:
        wanted: as the user chose; None for the pipeline's own length.

    Raises:
        UserError: if the model has no such text encoder to choose it for, or can't do without.
    """
    kind = kind_of(folder)
    present = kind.sized is not None and bool(models.component_config(folder, kind.sized))
    if wanted and not present:
        raise UserError(f"--max-tokens {wanted}: {folder} has no T5 or language model as text encoder; leave it out")
    if not present and kind.sized_optional:
        return 0
    if wanted == 0 and not kind.sized_optional:
        raise UserError(f"--max-tokens 0: a {pipeline_class(folder)} can't do without its text encoders")
    return kind.tokens if wanted is None else wanted


def tokenizer_of(text_encoder: str) -> str:
    """Name a text encoder's tokenizer."""
    return text_encoder.replace("text_encoder", "tokenizer")


def tokens_of(kind: Kind, embeddings: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return how many tokens a caption has in a store, by its columns' shapes; None where it can't be chosen."""
    return None if kind.sized is None else embeddings.get(kind.sized, (0,))[0]


def _part_of_settings(settings: Mapping[str, Any]) -> Any:
    """Make a part that has settings and nothing else, to build a pipeline from."""
    part = components.library("diffusers").ConfigMixin()
    part.config_name = "config.json"
    part.register_to_config(**settings)
    return part


def empty_pipeline(folder: Path) -> Any:
    """Build a folder's pipeline of its network's and its VAE's settings alone.

    Its constructor corrects settings that old checkpoints have wrong, for example a sample_size of 32 that is 64.
    """
    name = pipeline_class(folder)
    opened_by = getattr(components.library("diffusers"), name)
    parameters = inspect.signature(opened_by.__init__).parameters
    given: dict[str, Any] = {part: None for part in parameters if part in KINDS[name].parts}
    given |= {part: None for part in ("safety_checker", "feature_extractor") if part in parameters}
    for part in (KINDS[name].network, VAE):
        given[part] = _part_of_settings(components.settings(folder, part))
    if "requires_safety_checker" in parameters:
        given["requires_safety_checker"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the correction
        return opened_by(**given)


def pixels_per_latent(folder: Path) -> int:
    """Return the side of the square of pixels that one latent position stands for."""
    return int(empty_pipeline(folder).vae_scale_factor)


def native_resolution(folder: Path) -> int:
    """Return the side in pixels of the images that a model was made for, which its pipeline draws.

    Raises:
        UserError: if its network's settings name no such side, or two.
    """
    pipeline = empty_pipeline(folder)
    kind = kind_of(folder)
    if kind.resolution:
        return kind.resolution
    network = kind.network
    side = getattr(pipeline, "default_sample_size", None) or getattr(pipeline, network).config["sample_size"]
    file = folder / network / "config.json"
    if isinstance(side, list | tuple) and len(set(side)) == 1 and not hasattr(pipeline, "default_sample_size"):
        side = side[0]
    if not isinstance(side, int):
        raise UserError(f"{file}: sample_size is {side}; give one number, the side of the square latents")
    return side * int(pipeline.vae_scale_factor)


def check_posterior(posterior: str, folder: Path) -> None:
    """Refuse moments of a VAE that gives one latent of an image and no distribution.

    Raises:
        UserError: naming the flag.
    """
    if posterior == "moments" and "AutoencoderDC" in kind_of(folder).parts[VAE]:
        raise UserError(
            f"--posterior moments: the AutoencoderDC of {folder} gives one latent of an image and no deviation; "
            "leave --posterior out"
        )
