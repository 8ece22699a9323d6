"""A label set: scores of kept pairs, the labels that a rule makes of them, and its manifest.

labels/NAME/part-0.parquet              pair_id, score_0, score_1, label_0, probability_0; see latents/label_files.py
labels/NAME/quarantined/part-0.parquet  pair_id, reason: the pairs without a score, and so without a label
labels/NAME/manifest.json               written last
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import begun, files, next_step
from infra.base.errors import UserError
from labelers.labels import label_rules
from labelers.labels.relabel_config import Kind
from labelers.scoring.reasons import COUNTED, NOT_FINITE
from pipelines.latents import label_files, store
from pipelines.latents.models_known import model_flags
from pipelines.raw.source import told_apart

SCORING = ("scorer", "fingerprint", "store_hash", "source", "split")  # settings that decide the scores
RAISED = "scorer raised"
COST = "cost"
NOT_TEXT = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class Rules:
    """What makes labels of scores."""

    label: Kind
    min_margin: float
    temperature: float | None  # known already, or None: fitted on the human labels
    temperature_from: str = "scorer"  # where a known one comes from


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One scorer's scores of a store's kept pairs."""

    pair_ids: npt.NDArray[np.int64]  # [n]
    values: npt.NDArray[np.float32]  # [2, n], one row per slot
    refused: dict[int, str]  # pair_id: why it has no score; these pairs are not among pair_ids
    captions: int  # unique captions
    truncated_captions: int  # of them, those over the scorer's text limit
    counted: Mapping[str, float] = field(default_factory=dict)  # sums over the pairs, by COUNTED's names, and the cost


def scores_of(table: pa.Table, name: str) -> Scores:
    """Take one scorer's columns from a pass over the pairs.

    Raises:
        UserError: if it scored no pair.
    """
    scores = columns_of(table, name)
    if not len(scores.pair_ids):
        commonest = Counter(scores.refused.values()).most_common(1)[0][0]
        raise UserError(
            f"scorer {name}: none of {table.num_rows} pairs got a score, so there is no label; the commonest reason "
            f"is: {commonest}; mend that and run again"
        )
    return scores


def columns_of(table: pa.Table, name: str) -> Scores:
    """Take one scorer's columns from a pass over the pairs, of which it may have scored none."""
    ids = table["pair_id"].to_numpy()
    reasons = np.array(table[f"reason:{name}"].to_pylist(), object)
    good = np.array([reason is None for reason in reasons], bool)
    values = np.stack([table[f"score_{slot}:{name}"].to_numpy()[good] for slot in (0, 1)]).astype(np.float32)
    refused = dict(zip(ids[~good].tolist(), reasons[~good], strict=True))
    prompts = table["prompt_id"].to_numpy()
    long = prompts[table[f"truncated:{name}"].to_numpy()]
    return Scores(
        pair_ids=ids[good],
        values=values,
        refused=refused,
        captions=len(np.unique(prompts)),
        truncated_captions=len(np.unique(long)),
        counted={
            kind: int(table[f"{kind}:{name}"].to_numpy().sum())
            for kind in COUNTED
            if f"{kind}:{name}" in table.column_names
        },
    )


def scoring_part(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the settings that decide the scores, whatever the rule."""
    comparable = _comparable(settings)
    return {key: comparable.get(key) for key in SCORING}


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write the source in its canonical form, so that two spellings of one path are equal."""
    try:
        return dict(settings) | ({"source": told_apart(settings["source"])} if "source" in settings else {})
    except UserError:  # a relative path where nothing says from where it counts
        return dict(settings)


def refuse_other_settings(folder: str, before: Mapping[str, Any], now: Mapping[str, Any], remedy: str) -> None:
    """Compare settings.

    Raises:
        UserError: naming those that differ.
    """
    begun.refuse_other_settings(folder, _comparable(before), _comparable(now), remedy)


def write(
    destination: str,
    name: str,
    scores: Scores,
    rules: Rules,
    human: pa.Table,
    kept: pa.Table,
    provenance: Mapping[str, Any],
    probabilities: npt.NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """Label scored pairs, compare with the human labels, and write the label set; returns its manifest.

    Args:
        human: the human label set.
        kept: the store's kept pairs, as store.kept_pairs has them.
        provenance: the manifest's entries on how the set came about: settings and config.
        probabilities: [n] P(slot 0 preferred), where the rule gives them; else soft labels have the temperature's.

    Raises:
        UserError: if no pair has a winner; for soft labels where no temperature fits.
    """
    margin = label_rules.margins(*scores.values)
    people = human_labels(scores.pair_ids, human)
    prompts = kept["prompt_id"].to_numpy()[np.searchsorted(kept["pair_id"].to_numpy(), scores.pair_ids)]
    temperature = rules.temperature or label_rules.fit_temperature(margin, people)
    label_0 = label_rules.hard_labels(margin, rules.min_margin)
    if (label_0 == 0.5).all():
        remedy = f"lower --min-margin {rules.min_margin:g}" if rules.min_margin else "give another scorer or rule"
        raise UserError(f"{name}: all {len(label_0):,} pairs are ties, so nothing can be trained on; {remedy}")
    agreement = label_rules.agreement(label_0, people, prompts)
    probability = pa.nulls(len(margin), pa.float32())
    if probabilities is not None:
        probability = pa.array(probabilities.astype(np.float32))
    elif rules.label == "soft":
        if temperature is None:
            raise UserError(
                f"--label soft: no temperature of {name} fits the human labels (agreement {agreement.value:.3f} of "
                f"{agreement.pairs} pairs); use --label hard"
            )
        probability = pa.array(label_rules.soft_labels(margin, temperature))
    columns = [pa.array(scores.pair_ids), *map(pa.array, scores.values), pa.array(label_0), probability]
    manifest = {
        **provenance,
        "temperature": temperature,
        "temperature_from": None
        if temperature is None
        else rules.temperature_from
        if rules.temperature
        else "human labels",
        "counts": _counts(scores, label_0),
        "reasons": dict(sorted(Counter(map(_kind, scores.refused.values())).items())),
        "agreement": asdict(agreement),
        "calibration": [asdict(row) for row in label_rules.calibration(margin, people, prompts, temperature)],
    }
    lost = {"pair_id": pa.array(scores.refused, pa.int64()), "reason": pa.array(scores.refused.values(), pa.string())}
    files.write_table(refused_file(destination, name), pa.table(lost))
    label_files.write_labels(destination, name, pa.table(columns, schema=label_files.LABELS_SCHEMA), manifest)
    return manifest


def check_name(flag: str, name: str) -> None:
    """Refuse a name that no label set made by a command can have.

    Raises:
        UserError: naming the flag.
    """
    if NOT_TEXT.search(name) or not name or name.startswith(".") or name == "human":
        raise UserError(f"{flag} {name}: a label set has letters, digits, . _ and -, and human is the people's")


def human_labels(pair_ids: npt.NDArray[np.int64], human: pa.Table) -> npt.NDArray[np.float64]:
    """Look up the human label_0 of each pair, [n]; NaN where there is none."""
    ids = human["pair_id"].to_numpy()
    labels = human["label_0"].to_numpy().astype(np.float64)
    order = np.argsort(ids)
    place = np.minimum(np.searchsorted(ids, pair_ids, sorter=order), max(len(ids) - 1, 0))
    rows = order[place]
    return np.where(ids[rows] == pair_ids, labels[rows], np.nan)


def _counts(scores: Scores, label_0: npt.NDArray[np.float32]) -> dict[str, float]:
    return {
        "kept": len(label_0) + len(scores.refused),
        "labelled": len(label_0),
        "ties": int((label_0 == 0.5).sum()),
        "quarantined": len(scores.refused),
        "not_finite": sum(reason == NOT_FINITE for reason in scores.refused.values()),
        "captions": scores.captions,
        "truncated_captions": scores.truncated_captions,
        **scores.counted,
    }


def _kind(reason: str) -> str:
    """Shorten a reason to its class for counting; a scorer's own message may hold a caption."""
    return reason.split(":")[0] if reason.startswith(RAISED) else reason


def refused_file(destination: str, name: str) -> str:
    """Return the file that lists a label set's pairs without a score, pair_id and reason."""
    return files.join(destination, "labels", name, "quarantined", "part-0.parquet")


def result(destination: str, name: str) -> str:
    """Say in one line what a label set of a store holds, its size, and the command that trains on it."""
    manifest = label_files.read_labels_manifest(destination, name)
    counts = manifest["counts"]
    model = model_flags(store.read_manifest(destination).config["model"])
    settings = manifest["settings"]
    is_soft = settings.get("label") == "soft" or settings.get("rule") == "rank"
    soft = ("--objective", "soft") if is_soft else ()  # no other objective reads the probabilities
    then = next_step.command("training/train_dpo.py", *model, "--store", destination, "--labels", name, *soft)
    folder = files.join(destination, "labels", name)
    return next_step.last_line(folder, f"winners of {counts['labelled'] - counts['ties']:,} pairs", then)


def summary(manifest: Mapping[str, Any]) -> str:
    """Lay out a label set's counts, agreement and calibration, for the terminal."""
    counts = manifest["counts"]
    own = label_rules.Agreement(**manifest["agreement"])
    lines = [f"  {name.replace('_', ' '):<20}{value:>10,}" for name, value in counts.items()]
    lines += [f"    {reason:<18}{count:>10,}" for reason, count in manifest["reasons"].items()]
    if manifest["temperature"]:
        lines.append(f"  {'temperature':<20}{manifest['temperature']:>10.4g}  (from: {manifest['temperature_from']})")
    lines.append(
        f"  agrees with people on {own.value:.3f} ({own.low:.3f} to {own.high:.3f}) of {own.pairs:,} pairs; "
        f"its ties, {own.ties:,} of them, count a half"
    )
    return "\n".join(
        [*lines, label_rules.calibration_table([label_rules.Bin(**row) for row in manifest["calibration"]])]
    )
