"""Combined label sets: each rule by hand, ties, what is left out, and combinations that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from infra.base.errors import UserError
from labelers.labels import combination_rules, combine, label_set
from labelers.labels.combine_config import CombineConfig
from pipelines.latents import label_files, store

# Three sets, four pairs, [sets, 2, n].
SCORES = np.array(
    [
        [[3.0, 1.0, 1.0, 2.0], [1.0, 3.0, 1.0, 2.0]],
        [[0.5, 0.5, 0.1, 0.9], [0.1, 0.1, 0.5, 0.9]],
        [[20.0, 30.0, 20.0, 20.0], [10.0, 20.0, 20.0, 20.0]],
    ]
)
LABELS = np.array([[1.0, 0.0, 0.5, 0.5], [1.0, 1.0, 0.0, 0.5], [1.0, 1.0, 0.5, 0.5]])


def test_votes_by_hand() -> None:
    # 3 of 3; 2 of 3; a half, none and a half of 3; three halves.
    assert combination_rules.votes(LABELS).tolist() == pytest.approx(
        np.array([[1, 2 / 3, 1 / 3, 0.5], [0, 1 / 3, 2 / 3, 0.5]])
    )
    even = combination_rules.votes(np.array([[1.0], [0.0]]))
    assert even[0, 0] == even[1, 0]  # a tie, exactly


def test_mean_and_weighted_z_by_hand() -> None:
    # Two sets, one pair: scores (3, 1) have deviation 1, scores (0, 4) have 2. z: (3, 1) and (0, 2).
    scores = np.array([[[3.0], [1.0]], [[0.0], [4.0]]])
    assert combination_rules.combine("mean-z", scores, LABELS, ()).tolist() == [[1.5], [1.5]]
    # Weights 3 and 1: (9 + 0) / 4 and (3 + 2) / 4.
    assert combination_rules.combine("weighted", scores, LABELS, (3.0, 1.0)).tolist() == [[2.25], [1.25]]


def test_pareto_by_hand() -> None:
    # Pair 0: all three prefer slot 0. Pair 1: they contradict each other. Pair 2: one prefers slot 1, two see no
    # difference. Pair 3: none sees any.
    values = combination_rules.combine("pareto", SCORES, LABELS, ())
    assert values[0].tolist() == pytest.approx([1.0, 0.5, 0.0, 0.5])
    assert values[1].tolist() == pytest.approx([0.0, 0.5, 1 / 3, 0.5])


KEPT = pa.table({"pair_id": pa.array(range(10, 60, 10), pa.int64()), "prompt_id": pa.array([1, 1, 2, 2, 2])})
PEOPLE = [1.0, 1.0, 0.0, 1.0, 0.0]


def write_set(folder: Path, name: str, scores: list[list[float]] | None, labels: list[float], drop: int = 0) -> None:
    """Write a label set of the five pairs, the first ones left out."""
    values = [[None] * 5, [None] * 5] if scores is None else scores
    columns = [KEPT["pair_id"], *(pa.array(row, pa.float32()) for row in values), pa.array(labels, pa.float32())]
    table = pa.table([*columns, pa.nulls(5, pa.float32())], schema=label_files.LABELS_SCHEMA)
    label_files.write_labels(str(folder), name, table.slice(drop), {"settings": {}})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of five pairs, of which only the labels are read: people's, one scorer's and another's."""
    write_set(tmp_path, "human", None, PEOPLE)
    write_set(tmp_path, "one", [[2.0, 2, 1, 1, 2], [1.0, 1, 2, 2, 2]], [1, 1, 0, 0, 0.5])
    write_set(tmp_path, "two", [[9.0, 3, 3, 8, 3], [3.0, 9, 9, 3, 3]], [1, 0, 0, 1, 0.5])
    monkeypatch.setattr(store, "kept_pairs", lambda _: KEPT)
    monkeypatch.setattr(
        store, "read_manifest", lambda _: type("Manifest", (), {"content_hash": "h", "config": {"model": "m"}})
    )
    return tmp_path


def run(folder: Path, **changes: Any) -> tuple[pa.Table, dict[str, Any]]:
    config = replace(CombineConfig(store=str(folder), sets=("one", "two"), output="both"), **changes)
    combine.main(config)
    table, _ = label_files.read_labels(str(folder), config.output)
    return table, label_files.read_labels_manifest(str(folder), config.output)


def test_a_vote_of_two_ties_where_they_contradict_and_is_compared_with_people(folder: Path) -> None:
    table, manifest = run(folder)
    assert table["label_0"].to_pylist() == [1.0, 0.5, 0.0, 0.5, 0.5]
    # People decide all five: two agree, three ties count a half.
    assert manifest["agreement"]["value"] == pytest.approx((2 + 1.5) / 5)
    assert manifest["counts"]["ties"] == 3
    assert manifest["settings"]["sets"].keys() == {"one", "two"}


def test_the_same_command_again_does_nothing_and_another_rule_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder)
    run(folder)
    assert "both: already finished, nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"rule was 'vote', now 'pareto'\); give another --output"):
        run(folder, rule="pareto")


def test_people_may_vote_too_and_this_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, _ = run(folder, sets=("one", "two", "human"))
    assert table["label_0"].to_pylist() == [1.0, 1.0, 0.0, 1.0, 0.0]
    assert "people are compared with themselves in part" in capsys.readouterr().out


def test_flipped_the_worse_wins_and_soft_labels_turn_with_it(folder: Path) -> None:
    straight, known = run(folder, rule="mean-z", label="soft")
    turned, manifest = run(folder, rule="mean-z", label="soft", flip=True, output="worse")
    assert turned["label_0"].to_numpy() == pytest.approx(1 - straight["label_0"].to_numpy())
    assert turned["probability_0"].to_numpy() == pytest.approx(1 - straight["probability_0"].to_numpy(), abs=1e-6)
    assert manifest["temperature"] == known["temperature"]
    assert manifest["temperature_from"] == "human labels"
    assert manifest["agreement"]["value"] == pytest.approx(1 - known["agreement"]["value"])
    alone, _ = run(folder, sets=("human",), flip=True, output="against")
    assert alone["label_0"].to_pylist() == [0.0, 0.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("weights", "labels"), [((3.0, 1.0), [1.0, 1.0, 0.0, 0.0, 0.5]), ((1.0, 3.0), [1.0, 0.0, 0.0, 1.0, 0.5])]
)
def test_the_weights_given_decide_where_the_sets_contradict(
    folder: Path, weights: tuple[float, ...], labels: list[float]
) -> None:
    # In standard deviations, 0.49 and 2.83, the sets' margins of the second pair are 2.0 and -2.1, of the fourth -2.0
    # and 1.8. The heavier set wins both; with equal weights slot 1 would.
    table, _ = run(folder, rule="weighted", set_weights=weights)
    assert table["label_0"].to_pylist() == labels


def test_flipped_ranks_turn_each_probability(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phi = np.array([[1.0, 0.5, 0.0, 1.0, 0.0], [0.0, 1.0, 0.5, 0.0, 0.5]])
    probabilities = np.array([1.0, 0.25, 0.375, 0.75, 0.125])
    monkeypatch.setattr(combine, "ranked", lambda *_: (phi, probabilities))
    table, _ = run(folder, sets=("human",), rule="rank", flip=True)
    assert table["label_0"].to_pylist() == [0.0, 1.0, 1.0, 0.0, 1.0]
    assert table["score_0"].to_pylist() == phi[1].tolist()
    assert table["probability_0"].to_pylist() == [0.0, 0.75, 0.625, 0.25, 0.875]


def test_a_pair_without_a_label_in_one_set_is_left_out_with_its_reason(folder: Path) -> None:
    write_set(folder, "short", [[2.0, 2, 1, 1, 2], [1.0, 1, 2, 2, 2]], [1, 1, 0, 0, 0.5], drop=1)
    table, manifest = run(folder, sets=("one", "short"))
    assert table["pair_id"].to_pylist() == [20, 30, 40, 50]
    assert manifest["reasons"] == {"has no label in short": 1}
    assert manifest["counts"]["quarantined"] == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sets": ("one", "one")}, "--sets one one: one is there twice"),
        ({"sets": ("one",)}, "--sets one: a combination needs two sets"),
        ({"sets": ("one", "three")}, "--sets three: .* has the label sets human, one, two"),
        (
            {"sets": ("one", "human"), "rule": "mean-z"},
            "--sets human: has no scores for 5 of 5 pairs, and --rule mean-z",
        ),
        ({"output": "one"}, "--output one: is one of --sets"),
        ({"output": "human"}, "--output human: a label set has letters"),
        ({"output": "../x"}, "--output ../x: a label set has letters"),
        ({"set_weights": (1.0, 2.0)}, "--set-weights: only --rule weighted has them, and this is --rule vote"),
        ({"rule": "weighted", "set_weights": (1.0,)}, "--set-weights: 1 weights for 2 sets"),
        ({"rule": "weighted", "set_weights": (1.0, -2.0)}, "--set-weights 1 -2: each must be above 0"),
        ({"min_margin": -1.0}, "--min-margin -1: must be 0 or more"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(folder: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        run(folder, **changes)
    assert label_files.label_sets(str(folder)) == ["human", "one", "two"]


def test_sets_of_other_pairs_or_of_one_score_are_refused(folder: Path) -> None:
    write_set(folder, "none", None, PEOPLE, drop=5)
    with pytest.raises(UserError, match="--sets one none: no pair is in all of them"):
        run(folder, sets=("one", "none"))
    write_set(folder, "flat", [[2.0] * 5, [2.0] * 5], [0.5] * 5)
    with pytest.raises(UserError, match="--sets flat: all its scores are 2"):
        run(folder, sets=("one", "flat"), rule="mean-z")


def test_one_scorers_scores_under_two_names_are_refused(folder: Path) -> None:
    table, _ = label_files.read_labels(str(folder), "one")
    for name, rule in (("hard", "hard"), ("soft", "soft")):
        known = {"scorer": "clip", "fingerprint": "of clip", "label": rule}
        label_files.write_labels(str(folder), name, table, {"settings": known})
    with pytest.raises(UserError, match="hard and soft hold the same scores of clip, which would count double"):
        run(folder, sets=("hard", "two", "soft"))


def test_a_margin_above_every_difference_leaves_nothing_to_train_on(folder: Path) -> None:
    with pytest.raises(UserError, match=r"both: all 5 pairs are ties, so nothing .*; lower --min-margin 99$"):
        run(folder, rule="mean-z", min_margin=99.0)
    write_set(folder, "against", [[1.0, 1, 2, 2, 2], [2.0, 2, 1, 1, 2]], [0, 0, 1, 1, 0.5])
    with pytest.raises(UserError, match=r"all 5 pairs are ties, so nothing .*; give another scorer or rule$"):
        run(folder, sets=("one", "against"))
    assert label_files.label_sets(str(folder)) == ["against", "human", "one", "two"]


def test_names_that_a_command_may_give() -> None:
    label_set.check_name("--output", "pick-and_clip.2")
