"""The flags of scoring images, apart from what scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from infra.base.flags import Hidden
from infra.base.places import PathOrName, PathText
from labelers.scoring.endpoint_config import ENDPOINT_FLAGS, EndpointConfig

SCORE_EACH = EndpointConfig(ask="pointwise")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Flags of the scorer."""

    GROUPS: ClassVar = {
        "basic": ("images", "scorers", "weights", "scorer_python", "true_images", "feature_model", "batch_size"),
        "scorer behind an address": ENDPOINT_FLAGS,
    }

    images: tuple[PathText, ...]
    """Folders that generate.py wrote."""
    scorers: tuple[str, ...] = ("oracle", "fidelity")
    """Scorers: names from docs/scorers.md, for example pickscore or clip, module:function, or the http:// or https://
    address of a model that sees images, up to its /v1."""
    weights: tuple[PathOrName, ...] = ()
    """Weights of the scorers: world (of the embedded world), published (from the Hub), or NAME=PATH for one of them."""
    true_images: PathText | None = None
    """Folder of true images, for the distance KID; without it there is none."""
    feature_model: PathOrName = "infra/world/model"
    """Model whose VAE gives the features for KID and diversity, a diffusers folder or Hub name."""
    batch_size: int = 64
    """Images that are scored at once."""
    scorer_python: tuple[PathText, ...] = ()
    """Pythons of scorers that run in environments of their own, NAME=VENV/bin/python, for example for imagereward."""
    endpoint: Annotated[EndpointConfig, Hidden("ask")] = SCORE_EACH
