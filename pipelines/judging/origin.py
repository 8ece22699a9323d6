"""Find which scorers influenced a model's training, from its result and the store that it was trained on."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from infra.base import files
from infra.base.errors import UserError
from infra.base.result_files import FACTS
from pipelines.latents import label_files
from pipelines.raw import raw_pairs

HUMAN = "human"
NO_FACTS = f"no {FACTS} beside the model, so nothing is known of its training"
GONE = " can't be looked up, so what it was trained on is unknown"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Origin:
    """What is known of the training of a model, and of the models that it was trained from."""

    labelled_by: tuple[str, ...] = ()  # scorers whose labels were trained on
    chosen_by: tuple[str, ...] = ()  # scorers that picked a checkpoint
    unknown: tuple[str, ...] = ()  # why there may be other scorers; empty where everything is known

    def labelled(self, scorer: str) -> bool | None:
        """Say whether a scorer also labelled the training data; None where that is unknown.

        Names count, not fingerprints: another version of the same scorer is no independent judge either.
        """
        if scorer in self.labelled_by:
            return True
        return None if self.unknown else False

    def chose(self, scorer: str) -> bool | None:
        """Say whether a scorer picked a checkpoint; None where that is unknown."""
        if scorer in self.chosen_by:
            return True
        lost = any(reason == NO_FACTS or reason.endswith(GONE) for reason in self.unknown)
        return None if lost else False

    def in_report(self, scorers: list[str]) -> dict[str, Any]:
        """Return the fields, and what is known of each scorer, as a report holds them."""
        marks = {name: {"labelled": self.labelled(name), "chose_checkpoint": self.chose(name)} for name in scorers}
        return asdict(self) | {"scorers": marks}


def find_origin(model: str, *beneath: str) -> Origin:
    """Follow the training facts of a model, and of models beneath it, back to models that have none.

    Args:
        model: a diffusers folder, local or on S3, a folder of adapters, or a Hub name (which has no facts).
        beneath: models that may have no facts, for example the one that adapters are loaded onto.
    """
    labelled: list[str] = []
    chosen: list[str] = []
    unknown: list[str] = []
    seen: set[str] = set()
    for start in (model, *beneath):
        name = start
        while name not in seen:
            seen.add(name)
            facts, doubt = _facts(name)
            if facts is None:
                if doubt:
                    unknown.append(doubt)
                elif name == model:
                    unknown.append(NO_FACTS)
                break
            config = facts["config"]
            names, doubts = _labellers(facts)
            labelled += names
            unknown += doubts
            validation = config.get("validation", {})
            if validation.get("validation_prompts"):
                chosen.append(validation["validation_scorer"])
            name = config["model"]
    return Origin(labelled_by=_once(labelled), chosen_by=_once(chosen), unknown=_once(unknown))


def _once(names: list[str]) -> tuple[str, ...]:
    """Return each name once, in order of first appearance."""
    return tuple(dict.fromkeys(names))


def _facts(model: str) -> tuple[dict[str, Any] | None, str | None]:
    """Return a model's facts; where there are none, None and why some may be out of reach."""
    try:
        place = files.resolve(model)
        path = files.join(place, FACTS)
        if files.is_file(path):
            return files.read_json(path), None
        there = files.exists(place)
    except (UserError, OSError):  # out of reach, or a path of another machine
        there = False
    is_hub_name = HUB_NAME.fullmatch(model) is not None
    return None, None if there or is_hub_name else f"{model}{GONE}"


def _labellers(facts: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the scorers that labelled a run's training data, and why there may be others."""
    data = facts["config"].get("data", {})
    if not (data.get("store") and data.get("labels")):
        return [], ["its facts name no store and label set"]
    folder = data["store"]
    try:
        folder = files.resolve(folder)
        return labellers_of(folder, data["labels"], facts["labels_hash"], "trained on")
    except (UserError, OSError) as error:  # a server that is out of reach must not stop an evaluation
        return [], [f"the labels in {folder} can't be looked up ({error})"]


def labellers_of(folder: str, name: str, sha256: str, used: str) -> tuple[list[str], list[str]]:
    """Return the scorers that gave a label set, and why there may be others; combined sets are followed to theirs.

    Args:
        folder: of the store.
        name: of the label set.
        sha256: that the set had when it was used.
        used: what for, as the sentence about another set says it.

    Raises:
        UserError: if a manifest can't be read.
        OSError: if the store is out of reach.
    """
    if name not in label_files.label_sets(folder):
        return [], [f"the label set {name} is no longer in {folder}"]
    labels = label_files.read_labels_manifest(folder, name)
    if labels["sha256"] != sha256:
        return [], [f"the label set {name} in {folder} is not the one that was {used}"]
    if name == HUMAN:
        names, doubt = (labels["labelled_by"], None) if "labelled_by" in labels else _raters(labels["source"])
        return names, [doubt] if doubt else []
    settings = labels["settings"]
    if "sets" not in settings:
        return [settings["scorer"]], []
    followed = [labellers_of(folder, one, sha, f"combined as {name}") for one, sha in settings["sets"].items()]
    return [one for names, _ in followed for one in names], [doubt for _, doubts in followed for doubt in doubts]


def _raters(source: str) -> tuple[list[str], str | None]:
    """Return the scorers that labelled raw pairs, for a store that does not record them; none where people did."""
    if not files.exists(files.resolve(source)):
        return [], f"who labelled the pairs of {source} can't be looked up: they are not there"
    return raw_pairs.labelled_by(source), None
