"""The flags of a combination, apart from what combines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from infra.base.places import PathText
from labelers.labels.relabel_config import Kind

Rule = Literal["vote", "mean-z", "pareto", "weighted", "rank"]


@dataclass(frozen=True, kw_only=True)
class CombineConfig:
    """Settings of a combination."""

    GROUPS: ClassVar = {
        "basic": ("store", "sets", "rule", "output"),
        "labels": ("set_weights", "flip", "label", "min_margin"),
        "hand on": ("push_to_hub",),
    }

    store: PathText = "runs/store"
    """Latent store whose label sets are combined."""
    sets: tuple[str, ...] = ("pickscore", "hpsv2", "clip")
    """Label sets to combine, from relabel.py; human is the people's, which has labels and no scores."""
    rule: Rule = "vote"
    """How they are combined. vote: what most sets prefer. mean-z: the higher mean score, each set's scores divided by
    their standard deviation. weighted: the same with --set-weights. pareto: what no set scores lower and some set
    scores higher; other pairs are ties. rank: of one set and a store of groups, soft labels by how far apart a pair's
    images rank in their group, as RankDPO weighs pairs; for dpo-train --objective soft."""
    output: str = "combined"
    """Name of the new label set; dpo-train --labels takes it."""
    set_weights: tuple[float, ...] = ()
    """For --rule weighted: weight of each set, in the order of --sets."""
    flip: bool = False
    """Let the worse image win, to train a model of what not to draw; generate.py --negative-model takes it."""
    label: Kind = "hard"
    """hard: which image won. soft: also with which probability, for dpo-train --objective soft."""
    min_margin: float = 0.0
    """Smallest difference of combined scores that is no tie; a vote's runs from 0 to 1."""
    push_to_hub: str | None = None
    """Repository on the Hub, OWNER/NAME, that gets the label set when it is finished. A new one is private. The
    login is HF_TOKEN of the environment. The same command also sends what is finished, and nothing twice."""
