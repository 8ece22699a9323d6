"""The flags of the accuracy table and their preset, apart from what measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from infra.base.places import PathOrName, PathText
from labelers.scoring.endpoint_config import ENDPOINT_FLAGS, EndpointConfig
from labelers.scoring.speed_config import SpeedConfig


@dataclass(frozen=True, kw_only=True)
class AccuracyConfig:
    """Settings of the accuracy table."""

    GROUPS: ClassVar = {
        "basic": ("source", "scorers", "weights", "scorer_python", "output"),
        "data": ("split", "validation_source", "validation_split", "json"),
        "speed": ("batch_size", "copies", "gpus_per_copy", "rows_per_file"),
        "scorer behind an address": ENDPOINT_FLAGS,
    }

    scorers: tuple[str, ...] = ("pickscore", "hpsv2", "clip", "aesthetics")
    """Scorers: names from docs/scorers.md, for example pickscore or clip, module:function, or the http:// or https://
    address of a model that sees images, up to its /v1."""
    weights: tuple[PathOrName, ...] = ("world",)
    """Weights of the scorers: world (of the embedded world), published (from the Hub), or NAME=PATH for one of them.
    Several are read in order."""
    source: PathOrName = "infra/world/pairs"
    """Pairs with human labels: a Parquet file or folder, local or s3://, or the name of a Hugging Face dataset."""
    split: str = "train"
    """Split of a named dataset, or of a folder whose files' names tell several."""
    validation_source: PathOrName | None = None
    """Other pairs, on which PickScore's threshold for ties is tuned; by default each half of the prompts serves the
    other."""
    validation_split: str | None = None
    """Split of --validation-source; without that flag, another split of --source."""
    output: PathText = "runs/accuracy"
    """Folder for the scores. Give the same folder again to go on from there."""
    json: PathText | None = None
    """File to write the table's figures to."""
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    scorer_python: tuple[PathText, ...] = ()
    """Pythons of scorers that run in environments of their own, NAME=VENV/bin/python, for example for imagereward."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)


PRESETS = {
    "published": AccuracyConfig(weights=("published",), speed=SpeedConfig(rows_per_file=2048)),
}

LINES = {"published": "weights of the published scorers, from the Hub"}
