"""Soft labels from ranks, by hand, and on a store of groups."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.group_material import grouped_rows, write_rows
from support.material import encode_plainly

from infra.base.errors import UserError
from labelers.labels import combine, rank_rule
from labelers.labels.combine_config import CombineConfig
from pipelines.latents import label_files


def test_three_images_by_hand() -> None:
    """Image 1 beats 2 and 3, image 2 beats 3: phi is 1, 1/2, 0 and the rank 1, 2, 3."""
    images = np.array([[1, 2], [3, 1], [2, 3]])
    values, probability = rank_rule.rank_labels(np.array([7, 7, 7]), images, np.array([1.0, 0.0, 1.0]))
    assert values.tolist() == [[1.0, 0.0, 0.5], [0.5, 1.0, 0.0]]
    gain = {1: 1.0, 2: math.sqrt(2) - 1, 3: 0.0}  # 2^phi - 1
    discount = {1: math.log(2), 2: math.log(3), 3: math.log(4)}

    def weight(one: int, other: int) -> float:
        return abs(gain[one] - gain[other]) * abs(1 / discount[one] - 1 / discount[other])

    greatest = weight(1, 3)  # (1 - 0) (1/ln 2 - 1/ln 4) = 1/(2 ln 2) = 0.7213
    assert greatest == pytest.approx(0.7213, abs=1e-4)
    expected = [0.5 + weight(1, 2) / greatest / 2, 0.0, 0.5 + weight(2, 3) / greatest / 2]
    assert probability.tolist() == pytest.approx(expected)
    assert expected == pytest.approx([0.7162, 0.0, 0.5542], abs=1e-4)


def test_equal_images_are_a_tie_and_groups_do_not_mix() -> None:
    images = np.array([[1, 2], [8, 9]])
    values, probability = rank_rule.rank_labels(np.array([1, 2]), images, np.array([0.5, 0.0]))
    assert values.tolist() == [[0.5, 0.0], [0.5, 1.0]]
    assert probability.tolist() == [0.5, 0.0]  # a group of one decided pair: its weight is the group's greatest
    assert rank_rule.ranks(np.array([1, 1, 1, 2]), np.array([0.2, 0.9, 0.2, 0.1])).tolist() == [2, 1, 2, 1]


def test_the_slope_of_soft_labels_is_that_of_a_weighted_loss_at_the_start() -> None:
    """d/du of -p log s(u) - (1-p) log s(-u) at 0 is 1/2 - p = -w/2, with w the share of the greatest weight."""
    _, probability = rank_rule.rank_labels(
        np.array([7, 7, 7]), np.array([[1, 2], [1, 3], [2, 3]]), np.array([1.0, 1.0, 1.0])
    )
    share = 2 * probability - 1
    step = 1e-6

    def loss(u: float, p: float) -> float:
        return -p * math.log(1 / (1 + math.exp(-u))) - (1 - p) * math.log(1 / (1 + math.exp(u)))

    slopes = [(loss(step, p) - loss(-step, p)) / (2 * step) for p in probability]
    assert slopes == pytest.approx((-share / 2).tolist(), abs=1e-9)


def test_scores_compare_the_images_that_people_tied() -> None:
    """Image 5 has 0.3 in both of its pairs, 6 has 0.2 and 7 has 0.3."""
    images = np.array([[5, 6], [7, 5]])
    scores = np.array([[0.3, 0.2], [0.3, 0.3]])
    assert rank_rule.labels_of_ties(images, scores, np.array([[6, 7], [7, 6], [7, 5]])).tolist() == [0.0, 1.0, 0.5]
    assert rank_rule.labels_of_ties(images, np.full((2, 2), np.nan), np.array([[6, 7]])).tolist() == [0.5]


def test_ties_of_people_count_among_an_image_s_comparisons(tmp_path: Path) -> None:
    """Ranks 1, 1, 2, 3: a tie is half a win, so the best two have phi (1/2 + 1 + 1) / 3 = 5/6, not 1.

    The third image beats the last of three others: 1/3. The last has 0.
    """
    rows = grouped_rows(1, 4)
    for row in rows:
        if {row["image_0_uid"], row["image_1_uid"]} == {"0-0", "0-1"}:
            row.update(label_0=0.5, label_1=0.5)
    source = write_rows(tmp_path / "raw", rows)
    encode_plainly(source, tmp_path / "store")
    destination = str(tmp_path / "store")
    combine.main(CombineConfig(store=destination, sets=("human",), rule="rank", output="ranked"))
    ranked, _ = label_files.read_labels(destination, "ranked")
    values = np.stack([ranked[f"score_{slot}"].to_numpy() for slot in (0, 1)])
    assert sorted(values.max(0)) == pytest.approx([1 / 3, 5 / 6, 5 / 6, 5 / 6, 5 / 6])
    assert sorted(values.min(0)) == pytest.approx([0, 0, 0, 1 / 3, 1 / 3])


def test_a_label_set_of_ranks(
    group_store: Path, encoded_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "store"
    shutil.copytree(group_store, copy, ignore=shutil.ignore_patterns(".lock"))
    combine.main(CombineConfig(store=str(copy), sets=("human",), rule="rank", output="ranked"))
    assert capsys.readouterr().out.endswith("--labels ranked --objective soft\n")  # else no rank would count
    ranked, _ = label_files.read_labels(str(copy), "ranked")
    human, _ = label_files.read_labels(str(copy), "human")
    assert ranked["label_0"].equals(human["label_0"])  # the groups are whole rankings
    probability = ranked["probability_0"].to_numpy()
    label = ranked["label_0"].to_numpy()
    assert ((probability > 0.5) == (label == 1)).all()
    # In each of 3 groups of 4 the best against the worst counts in full.
    assert (np.abs(probability - 0.5) == 0.5).sum() == 3
    with pytest.raises(UserError, match="its pairs are of no groups, so its images have no ranks"):
        combine.main(CombineConfig(store=str(encoded_store), sets=("human",), rule="rank", output="ranked"))
    with pytest.raises(UserError, match="--rule rank takes the ranks of one set"):
        combine.main(CombineConfig(store=str(copy), sets=("human", "ranked"), rule="rank", output="other"))
