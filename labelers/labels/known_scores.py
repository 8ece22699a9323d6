"""Scores that a store's label sets hold already, and the pairs among them that a judge still owes an answer.

A server that fails at each try costs a pair its score. The pair stays out of the label set, and is asked for again by
the same command, alone: what the judge has answered is in the label set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from infra.base import tables
from labelers.labels import label_set
from labelers.labels.label_set import Scores
from labelers.scoring.reasons import COUNTED, is_unanswered
from pipelines.latents import label_files


def known_scores(destination: str, settings: Mapping[str, Any]) -> Scores | None:
    """Read the scores from another label set of the store that the same scorer made; only the rule differs then."""
    by_set: dict[str, Scores] = {}
    for name in label_files.label_sets(destination):
        before = label_files.read_labels_manifest(destination, name)
        if label_set.scoring_part(before.get("settings", {})) == label_set.scoring_part(settings):
            by_set[name] = _read(destination, name, before["counts"])
    if not by_set:
        return None
    most = max(by_set, key=lambda name: len(by_set[name].pair_ids))
    print(f"the scores of {settings['scorer']} are taken from the label set {most}", flush=True)
    return by_set[most]


def _read(destination: str, name: str, counts: Mapping[str, Any]) -> Scores:
    table, _ = label_files.read_labels(destination, name)
    lost = tables.read([label_set.refused_file(destination, name)])
    return Scores(
        pair_ids=table["pair_id"].to_numpy(),
        values=np.stack([table[f"score_{slot}"].to_numpy() for slot in (0, 1)]),
        refused=dict(zip(lost["pair_id"].to_pylist(), lost["reason"].to_pylist(), strict=True)),
        captions=counts["captions"],
        truncated_captions=counts["truncated_captions"],
        counted={kind: counts[kind] for kind in (*COUNTED, label_set.COST) if kind in counts},
    )


def unanswered(refused: Mapping[int, str]) -> list[int]:
    """List the pairs that may be asked for again, ascending."""
    return sorted(pair for pair, reason in refused.items() if is_unanswered(reason))


def count_unanswered(manifest: Mapping[str, Any]) -> int:
    """Count the pairs of a label set that may be asked for again."""
    return sum(count for reason, count in manifest.get("reasons", {}).items() if is_unanswered(reason))


def with_answers(before: Scores, scored: pa.Table, name: str) -> Scores:
    """Put what a scorer answered when it was asked again in place of what was lost.

    Args:
        before: the known scores.
        scored: a pass over those pairs at least, as scoring_pass.read_scores has it.
        name: the scorer.
    """
    asked = unanswered(before.refused)
    again = label_set.columns_of(scored.filter(pa.array(np.isin(scored["pair_id"].to_numpy(), asked))), name)
    ids = np.concatenate([before.pair_ids, again.pair_ids])
    order = np.argsort(ids)
    return Scores(
        pair_ids=ids[order],
        values=np.concatenate([before.values, again.values], axis=1)[:, order],
        refused={pair: why for pair, why in before.refused.items() if pair not in asked} | again.refused,
        captions=before.captions,
        truncated_captions=before.truncated_captions,
        counted={kind: before.counted.get(kind, 0) + count for kind, count in again.counted.items()},
    )
