"""From scores to labels: ties, Bradley-Terry probabilities and their temperature, agreement and calibration."""

from __future__ import annotations

import math

import numpy as np
import pytest

from labelers.labels import label_rules


def test_the_higher_score_wins_and_only_equal_scores_tie() -> None:
    margin = label_rules.margins(np.array([2, 1, 1, 0.3]), np.array([1, 2, 1, 0.2]))
    assert label_rules.hard_labels(margin).tolist() == [1.0, 0.0, 0.5, 1.0]


def test_near_ties_become_ties_and_the_margin_itself_does_not() -> None:
    margin = np.array([0.5, -0.5, 0.49, -0.49, 0.0])
    assert label_rules.hard_labels(margin, min_margin=0.5).tolist() == [1.0, 0.0, 0.5, 0.5, 0.5]


def test_soft_labels_are_the_sigmoid_of_the_logit() -> None:
    # A cosine difference of 0.01 at CLIP's logit scale of 100 is a logit of 1.
    assert label_rules.soft_labels(np.array([0.01, -0.02, 0.0]), 0.01) == pytest.approx(
        [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2)), 0.5], abs=1e-7
    )


def test_the_temperature_of_equal_margins_has_a_closed_form() -> None:
    # Margins of size d, 7 of 10 agreeing: sigmoid(d/T) = 0.7, so T = d / logit(0.7). Ties do not count.
    d = 0.3
    human = np.array([1.0] * 7 + [0.0] * 3 + [0.5] * 4)
    margin = np.full(14, d)
    assert label_rules.fit_temperature(margin, human) == pytest.approx(d / math.log(7 / 3), rel=1e-9)
    # Swapped slots say the same.
    assert label_rules.fit_temperature(-margin, 1 - human) == pytest.approx(d / math.log(7 / 3), rel=1e-9)


def test_the_temperature_that_made_the_labels_is_found() -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(0, 0.2, 20_000)
    human = (rng.random(20_000) < 1 / (1 + np.exp(-margin / 0.05))).astype(float)
    assert label_rules.fit_temperature(margin, human) == pytest.approx(0.05, rel=0.05)


def test_no_temperature_fits_disagreement_or_perfect_agreement() -> None:
    margin = np.array([1.0, 2.0, -1.0, -3.0])
    assert label_rules.fit_temperature(margin, np.array([1.0, 1.0, 0.0, 0.0])) is None
    assert label_rules.fit_temperature(margin, np.array([0.0, 0.0, 1.0, 1.0])) is None
    assert label_rules.fit_temperature(np.empty(0), np.empty(0)) is None
    # As much for people as against them: the likelihood is greatest at a temperature without end.
    assert label_rules.fit_temperature(np.array([1.0, -1.0]), np.array([1.0, 1.0])) is None


def test_agreement_counts_ties_a_half_and_leaves_out_people_s() -> None:
    label_0 = np.array([1.0, 0.0, 0.5, 0.5, 1.0])
    human = np.array([1.0, 1.0, 0.0, 0.5, np.nan])
    own = label_rules.agreement(label_0, human, np.arange(5))
    assert (own.value, own.pairs, own.ties) == (0.5, 3, 1)  # (1 + 0 + 0.5) / 3; where both tie, nobody decides
    assert own.low < 0.5 < own.high
    assert label_rules.agreement(label_0[4:], human[4:], np.arange(1)) == label_rules.Agreement(
        value=0.5, low=0.0, high=1.0, pairs=0, ties=0
    )


def test_pairs_of_one_caption_are_no_independent_witnesses() -> None:
    human = np.repeat(np.arange(40) % 4 != 0, 25).astype(float)  # 40 captions, of one opinion each on 25 pairs
    every = label_rules.agreement(np.ones(1000), human, np.arange(1000))
    clustered = label_rules.agreement(np.ones(1000), human, np.repeat(np.arange(40), 25))
    assert (every.value, every.interval) == (0.75, "Wilson")
    assert (clustered.value, clustered.interval) == (0.75, "bootstrap over prompts")
    # 25 pairs that say the same are one: the interval is five times as wide.
    assert clustered.high - clustered.low == pytest.approx(5 * (every.high - every.low), rel=0.1)


def test_calibration_bins_by_margin_with_equal_counts() -> None:
    margin = np.concatenate([np.linspace(0.1, 0.2, 10), np.linspace(-2, -1, 10)])
    human = np.concatenate([np.tile([1.0, 0.0], 5), np.zeros(10)])
    low, high = label_rules.calibration(margin, human, np.arange(20), temperature=0.5)
    assert (low.pairs, low.agreement, high.pairs, high.agreement) == (10, 0.5, 10, 1.0)
    assert (low.margin_from, low.margin_to, high.margin_from, high.margin_to) == pytest.approx((0.1, 0.2, 1.0, 2.0))
    assert high.predicted == pytest.approx(np.mean(1 / (1 + np.exp(-np.linspace(1, 2, 10) / 0.5))))
    assert "0.500" in label_rules.calibration_table([low, high])


def test_calibration_without_a_temperature_or_decided_pairs() -> None:
    margin = np.linspace(0.1, 0.9, 9)  # fewer than two bins of ten
    (row,) = label_rules.calibration(margin, np.ones(9), np.arange(9), temperature=None)
    assert (row.pairs, row.agreement, row.predicted) == (9, 1.0, None)
    assert label_rules.calibration(margin, np.full(9, 0.5), np.arange(9), temperature=1.0) == []


def test_calibration_has_ten_bins_of_ten_pairs_at_the_least() -> None:
    for pairs, bins in ((19, 1), (20, 2), (99, 9), (100, 10), (300, 10)):
        found = label_rules.calibration(np.arange(1.0, pairs + 1), np.ones(pairs), np.arange(pairs), temperature=1.0)
        assert len(found) == bins
        assert sum(row.pairs for row in found) == pairs
