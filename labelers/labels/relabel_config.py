"""The flags of relabelling and their preset, apart from what labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from infra.base.places import PathOrName, PathText
from labelers.scoring.endpoint_config import ENDPOINT_FLAGS, EndpointConfig
from labelers.scoring.speed_config import SpeedConfig

Kind = Literal["hard", "soft"]


@dataclass(frozen=True, kw_only=True)
class RelabelConfig:
    """Settings of relabelling."""

    GROUPS: ClassVar = {
        "basic": ("source", "store", "scorer", "weights", "scorer_python"),
        "labels": ("names", "label", "min_margin", "split"),
        "speed": ("batch_size", "copies", "gpus_per_copy", "rows_per_file"),
        "scorer behind an address": ENDPOINT_FLAGS,
        "hand on": ("push_to_hub",),
    }

    scorer: tuple[str, ...] = ("pickscore",)
    """Scorers: names from docs/scorers.md, for example pickscore or clip, module:function, or the http:// or https://
    address of a model that sees images, up to its /v1."""
    weights: tuple[PathOrName, ...] = ("world",)
    """Weights of the scorers: world (of the embedded world), published (from the Hub), or NAME=PATH for one of them.
    Several are read in order."""
    names: tuple[str, ...] = ()
    """Names of the label sets, one for each scorer; by default the scorers' own."""
    source: PathOrName = "infra/world/pairs"
    """Pairs that the store was encoded from: a Parquet file or folder, local or s3://, or the name of a Hugging Face
    dataset."""
    split: str = "train"
    """Split of a named dataset, or of a folder whose files' names tell several."""
    store: PathText = "runs/store"
    """Latent store that gets the label sets."""
    label: Kind = "hard"
    """hard: which image won. soft: also with which probability, for dpo-train --objective soft."""
    min_margin: float = 0.0
    """Smallest difference of scores that is no tie, in the units of the scorer; needs a single scorer."""
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    scorer_python: tuple[PathText, ...] = ()
    """Pythons of scorers that run in environments of their own, NAME=VENV/bin/python, for example for imagereward."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    push_to_hub: str | None = None
    """Repository on the Hub, OWNER/NAME, that gets the label sets when they are finished. A new one is private. The
    login is HF_TOKEN of the environment. The same command also sends what is finished, and nothing twice."""


PRESETS = {
    "published": RelabelConfig(weights=("published",), speed=SpeedConfig(rows_per_file=2048)),
}

LINES = {"published": "weights of the published scorers, from the Hub"}
