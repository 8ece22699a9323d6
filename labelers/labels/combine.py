"""Make a label set from label sets: `python labelers/combine.py --store S --sets pickscore hpsv2 clip --rule vote`.

Only tables are read, no image and no model. The same command again leaves a finished label set alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import files, hub, object_storage, one_writer
from infra.base.config_files import save_config
from infra.base.errors import UserError
from labelers.labels import combination_rules, label_hub, label_rules, label_set, rank_rule
from labelers.labels.combine_config import CombineConfig
from pipelines.latents import label_files, store


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The pairs that all sets label, and why others are left out."""

    pair_ids: npt.NDArray[np.int64]  # [n] ascending
    scores: npt.NDArray[np.float64]  # [sets, 2, n]; NaN where a set has none
    labels: npt.NDArray[np.float64]  # [sets, n] label_0
    refused: dict[int, str]
    hashes: dict[str, str]  # of each set
    truncated_captions: int  # the most of any set


def main(config: CombineConfig) -> None:
    """Combine label sets of a store into a new one, and compare it with people."""
    check(config)
    if config.push_to_hub is not None:
        hub.check(config.push_to_hub)
    destination = files.resolve(config.store)
    object_storage.check("--store", destination)
    manifest = store.read_manifest(destination)
    gathered = gather(destination, config.sets)
    check_scores(config, gathered)
    settings = settings_of(config, gathered, manifest.content_hash)
    folder = files.join(destination, "labels", config.output)
    with one_writer.writer_lock(folder) as still_held:
        remark = ": already finished, nothing to do"
        if not is_finished(destination, config.output, folder, settings):
            remark = ""
            still_held()
            save_config(folder, config)
            write(config, destination, gathered, settings)
    print(
        f"{folder}{remark}\n{label_set.summary(label_files.read_labels_manifest(destination, config.output))}",
        flush=True,
    )
    if "human" in config.sets:
        print("  human is among the sets, so people are compared with themselves in part", flush=True)
    if config.push_to_hub is not None:
        print(label_hub.push(destination, [config.output], config.push_to_hub), flush=True)
    print(label_set.result(destination, config.output), flush=True)


def check(config: CombineConfig) -> None:
    """Refuse flags that make no combination, whatever the store.

    Raises:
        UserError: naming the flag.
    """
    label_set.check_name("--output", config.output)
    sets = " ".join(config.sets)
    twice = sorted({name for name in config.sets if config.sets.count(name) > 1})
    if twice:
        raise UserError(f"--sets {sets}: {twice[0]} is there twice, and would count double; name each set once")
    if config.output in config.sets:
        raise UserError(f"--output {config.output}: is one of --sets, and would be overwritten; give another name")
    if config.rule == "rank" and len(config.sets) != 1:
        raise UserError(f"--sets {sets}: --rule rank takes the ranks of one set; name one, for example human")
    if len(config.sets) < (1 if config.flip or config.rule == "rank" else 2):
        raise UserError(f"--sets {sets}: a combination needs two sets; one alone can only be turned round, with --flip")
    weights = config.set_weights
    if config.rule != "weighted" and weights:
        raise UserError(f"--set-weights: only --rule weighted has them, and this is --rule {config.rule}")
    if config.rule == "weighted" and len(weights) != len(config.sets):
        raise UserError(f"--set-weights: {len(weights)} weights for {len(config.sets)} sets; give one for each")
    if not all(0 < weight < math.inf for weight in weights):
        raise UserError(f"--set-weights {' '.join(f'{weight:g}' for weight in weights)}: each must be above 0")
    if not 0 <= config.min_margin < math.inf:
        raise UserError(f"--min-margin {config.min_margin:g}: must be 0 or more")


def gather(destination: str, names: Sequence[str]) -> Gathered:
    """Read label sets of a store and put them side by side.

    Raises:
        UserError: if a set is missing or altered, or the sets have no pair in common.
    """
    kept = store.kept_pairs(destination)["pair_id"].to_numpy()
    tables = {name: label_files.read_labels(destination, name, "--sets") for name in names}
    ids = {name: table["pair_id"].to_numpy() for name, (table, _) in tables.items()}
    common = reduce(np.intersect1d, ids.values(), kept)
    if not len(common):
        raise UserError(f"--sets {' '.join(names)}: no pair is in all of them; combine sets of the same pairs")
    refused: dict[int, str] = {}
    for name, own in ids.items():
        absent = np.setdiff1d(kept, own)
        refused |= {pair: f"has no label in {name}" for pair in absent.tolist() if pair not in refused}
    chosen = [_rows(table, common) for table, _ in tables.values()]
    manifests = [label_files.read_labels_manifest(destination, name) for name in names]
    _refuse_equal_scores(names, manifests)
    return Gathered(
        pair_ids=common,
        scores=np.stack([[_column(table, f"score_{slot}") for slot in (0, 1)] for table in chosen]),
        labels=np.stack([_column(table, "label_0") for table in chosen]),
        refused=refused,
        hashes={name: sha for name, (_, sha) in tables.items()},
        truncated_captions=max(one.get("counts", {}).get("truncated_captions", 0) for one in manifests),
    )


def _refuse_equal_scores(names: Sequence[str], manifests: Sequence[Mapping[str, Any]]) -> None:
    """Refuse two sets of one scorer's scores, of which the rule alone differs: they would count double.

    Raises:
        UserError: naming both.
    """
    seen: list[tuple[str, dict[str, Any]]] = []
    for name, manifest in zip(names, manifests, strict=True):
        scored = label_set.scoring_part(manifest.get("settings", {}))
        twin = next((before for before, other in seen if other == scored), None)
        if twin and scored["scorer"]:  # a combined set, or the people's, has none
            raise UserError(
                f"--sets {' '.join(names)}: {twin} and {name} hold the same scores of {scored['scorer']}, which would "
                "count double; name one of them"
            )
        seen.append((name, scored))


def _rows(table: pa.Table, pair_ids: npt.NDArray[np.int64]) -> pa.Table:
    ids = table["pair_id"].to_numpy()
    order = np.argsort(ids)
    return table.take(order[np.searchsorted(ids, pair_ids, sorter=order)])


def _column(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    return table[name].to_numpy().astype(np.float64)  # a null is NaN here


def check_scores(config: CombineConfig, gathered: Gathered) -> None:
    """Refuse sets that lack what the rule reads.

    Raises:
        UserError: naming the set.
    """
    if config.rule in ("vote", "rank"):
        return
    for name, scores in zip(config.sets, gathered.scores, strict=True):
        lacking = int((~np.isfinite(scores)).any(0).sum())
        if lacking:
            raise UserError(
                f"--sets {name}: has no scores for {lacking} of {len(gathered.pair_ids)} pairs, and --rule "
                f"{config.rule} reads scores; leave it out, or take --rule vote"
            )
        if config.rule != "pareto" and not scores.std() > 0:
            raise UserError(f"--sets {name}: all its scores are {scores[0, 0]:g}, so they decide nothing; leave it out")


def write(config: CombineConfig, destination: str, gathered: Gathered, settings: dict[str, Any]) -> None:
    """Combine, label, compare with people and publish.

    The temperature of soft labels belongs to the set before it is turned round: turned round, it disagrees with people.
    """
    probabilities = None
    if config.rule == "rank":
        values, probabilities = ranked(destination, gathered)
    else:
        values = combination_rules.combine(config.rule, gathered.scores, gathered.labels, config.set_weights)
    human, _ = label_files.read_labels(destination, "human")
    people = label_set.human_labels(gathered.pair_ids, human)
    temperature = label_rules.fit_temperature(label_rules.margins(values[0], values[1]), people)
    kept = store.kept_pairs(destination)
    scores = label_set.Scores(
        pair_ids=gathered.pair_ids,
        values=(values[::-1] if config.flip else values).astype(np.float32),
        refused=gathered.refused,
        captions=len(np.unique(kept["prompt_id"].to_numpy())),
        truncated_captions=gathered.truncated_captions,
    )
    rules = label_set.Rules(config.label, config.min_margin, temperature, temperature_from="human labels")
    about = {"settings": settings, "config": asdict(config)}
    if probabilities is not None and config.flip:
        probabilities = 1 - probabilities
    label_set.write(destination, config.output, scores, rules, human, kept, about, probabilities)


def ranked(destination: str, gathered: Gathered) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Rank the images of each group by a set's labels; see rank_rule.rank_labels.

    Raises:
        UserError: if the store has no groups.
    """
    shown = store.shown_images(destination)
    rows = np.searchsorted(shown["pair_id"].to_numpy(), gathered.pair_ids)
    groups = shown["group_id"].to_numpy()[rows]
    images = _images(shown)[rows]
    ties = store.shown_images(destination, store.TIES)
    # People's ties are comparisons of the group too, as far as their images were encoded.
    compared = np.isin(_images(ties), images).all(1)
    tied = _images(ties)[compared]
    tied_labels = rank_rule.labels_of_ties(images, gathered.scores[0].T, tied)
    values, probabilities = rank_rule.rank_labels(
        np.concatenate([groups, ties["group_id"].to_numpy()[compared]]),
        np.concatenate([images, tied]),
        np.concatenate([gathered.labels[0], tied_labels]),
    )
    return values[:, : len(rows)], probabilities[: len(rows)]


def _images(shown: pa.Table) -> npt.NDArray[np.int64]:
    return np.stack([shown[f"image_{slot}_id"].to_numpy() for slot in (0, 1)], axis=1)


def settings_of(config: CombineConfig, gathered: Gathered, store_hash: str) -> dict[str, Any]:
    """Collect what decides a combined label set."""
    return {
        "sets": gathered.hashes,
        "rule": config.rule,
        "set_weights": list(config.set_weights),
        "flip": config.flip,
        "label": config.label,
        "min_margin": config.min_margin,
        "store_hash": store_hash,
    }


def is_finished(destination: str, name: str, folder: str, settings: dict[str, Any]) -> bool:
    """Say whether the label set is there with these settings.

    Raises:
        UserError: if it is there with others.
    """
    if name not in label_files.label_sets(destination):
        return False
    before = label_files.read_labels_manifest(destination, name).get("settings", {})
    label_set.refuse_other_settings(folder, before, settings, "give another --output, or delete it")
    return True
