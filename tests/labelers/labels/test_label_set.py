"""What a label set holds and tells: labels, probabilities, refused pairs, counts; scores that serve another rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.base.errors import UserError
from labelers.labels import known_scores, label_set, labelling
from labelers.labels.relabel_config import RelabelConfig
from labelers.scoring.reasons import NOT_FINITE
from pipelines.latents import label_files, store

HUMAN = pa.table({"pair_id": pa.array([40, 10, 30, 20, 50], pa.int64()), "label_0": pa.array([1.0, 1, 0, 1, 0])})
KEPT = pa.table(
    {"pair_id": pa.array([10, 20, 30, 40, 50], pa.int64()), "prompt_id": pa.array([1, 1, 2, 2, 2], pa.int64())}
)
SETTINGS = {"scorer": "one", "fingerprint": "f", "store_hash": "h", "source": "s", "split": "train"}


def pass_table() -> pa.Table:
    """Five pairs: three scored, one with a bad image, one not finite; two captions, one of them too long."""
    return pa.table(
        {
            "pair_id": [10, 20, 30, 40, 50],
            "prompt_id": [1, 1, 2, 2, 2],
            "score_0:one": pa.array([2.0, 1.0, 1.0, None, None], pa.float32()),
            "score_1:one": pa.array([1.0, 2.0, 1.25, None, None], pa.float32()),
            "reason:one": [None, None, None, "image_0: image is empty", NOT_FINITE],
            "truncated:one": [False, False, True, True, True],
        }
    )


def write(folder: Path, name: str = "one", **rule: Any) -> dict[str, Any]:
    rules = replace(label_set.Rules("hard", 0.0, None), **rule)
    scores = label_set.scores_of(pass_table(), "one")
    return label_set.write(str(folder), name, scores, rules, HUMAN, KEPT, {"settings": SETTINGS})


def test_only_scored_pairs_are_labelled_and_everything_is_counted(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    table, _ = label_files.read_labels(str(tmp_path), "one")
    assert table.schema.equals(label_files.LABELS_SCHEMA)
    assert table["pair_id"].to_pylist() == [10, 20, 30]
    assert table["label_0"].to_pylist() == [1.0, 0.0, 0.0]
    assert table["probability_0"].null_count == 3
    assert manifest["counts"] == {
        "kept": 5,
        "labelled": 3,
        "ties": 0,
        "quarantined": 2,
        "not_finite": 1,
        "captions": 2,
        "truncated_captions": 1,
    }
    assert manifest["reasons"] == {"image_0: image is empty": 1, NOT_FINITE: 1}
    # People said 1, 1, 0 of pairs 10, 20, 30: two of three agree.
    assert manifest["agreement"]["value"] == pytest.approx(2 / 3)
    lost = pq.read_table(tmp_path / "labels" / "one" / "quarantined" / "part-0.parquet")
    assert lost.to_pylist() == [
        {"pair_id": 40, "reason": "image_0: image is empty"},
        {"pair_id": 50, "reason": NOT_FINITE},
    ]
    assert "agrees with people on 0.667" in label_set.summary(label_files.read_labels_manifest(str(tmp_path), "one"))


def test_soft_labels_use_the_scorers_temperature_or_the_fitted_one(tmp_path: Path) -> None:
    manifest = write(tmp_path, label="soft", temperature=0.5)
    table, _ = label_files.read_labels(str(tmp_path), "one")
    assert table["probability_0"].to_numpy() == pytest.approx(1 / (1 + np.exp([-2.0, 2.0, 0.5])))
    assert (manifest["temperature"], manifest["temperature_from"]) == (0.5, "scorer")
    fitted = write(tmp_path, "fitted", label="soft")
    assert fitted["temperature_from"] == "human labels"
    # Signed margins 1, -1, 0.25: sigmoid(-1/T) - sigmoid(1/T) + 0.25 sigmoid(-0.25/T) = 0.
    a = 1 / fitted["temperature"]
    assert 1 / (1 + np.exp(a)) - 1 / (1 + np.exp(-a)) + 0.25 / (1 + np.exp(0.25 * a)) == pytest.approx(0, abs=1e-9)


def test_soft_labels_without_a_temperature_are_refused(tmp_path: Path) -> None:
    against = HUMAN.set_column(1, "label_0", pa.array([0.0, 0, 1, 0, 1]))
    scores = label_set.scores_of(pass_table(), "one")
    with pytest.raises(UserError, match="no temperature of one fits"):
        label_set.write(str(tmp_path), "one", scores, label_set.Rules("soft", 0.0, None), against, KEPT, {})
    assert label_files.label_sets(str(tmp_path)) == []


def test_known_scores_serve_another_rule_of_the_same_scorer_only(tmp_path: Path) -> None:
    write(tmp_path)
    known = known_scores.known_scores(str(tmp_path), SETTINGS | {"min_margin": 0.3})
    assert known is not None
    first = label_set.scores_of(pass_table(), "one")
    assert np.array_equal(known.values, first.values)
    assert (known.refused, known.captions, known.truncated_captions) == (first.refused, 2, 1)
    for key in label_set.SCORING:
        assert known_scores.known_scores(str(tmp_path), SETTINGS | {key: "another"}) is None


def test_a_scorer_that_scored_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="none of 2 pairs got a score"):
        label_set.scores_of(pass_table().slice(3), "one")


def test_human_labels_are_looked_up_by_pair() -> None:
    assert label_set.human_labels(np.array([20, 30, 99]), HUMAN)[:2].tolist() == [1.0, 0.0]
    assert np.isnan(label_set.human_labels(np.array([99, 5]), HUMAN)).all()


def test_relabelling_labels_by_its_flags_and_the_scorer_s_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, label_set.Rules]] = []
    monkeypatch.setattr(label_files, "label_sets", lambda _: [])
    monkeypatch.setattr(label_files, "read_labels", lambda *_: (None, ""))
    monkeypatch.setattr(store, "kept_pairs", lambda _: None)
    monkeypatch.setattr(labelling, "settings_of", lambda *_: {})
    monkeypatch.setattr(labelling, "save_config", lambda *_: None)
    monkeypatch.setattr(label_set, "write", lambda _, name, _scores, rules, *_more: written.append((name, rules)))
    plan: Any = SimpleNamespace(
        config=RelabelConfig(label="soft", min_margin=0.2),
        destination="store",
        folder=lambda name: f"store/labels/{name}",
        judges={"oracle": SimpleNamespace(temperature=0.5)},
        names={"oracle": "near"},
        weights={"oracle": None},
    )
    scores = label_set.Scores(
        pair_ids=np.array([1]), values=np.ones((2, 1), np.float32), refused={}, captions=1, truncated_captions=0
    )
    labelling.write_label_set(plan, "oracle", scores)
    assert written == [("near", label_set.Rules("soft", 0.2, 0.5))]
