"""From scores to labels, and how far to trust them: winners, ties, soft labels, agreement with people.

A score margin is score_0 - score_1, in the scorer's own units. Divided by a temperature it is the logit of the
Bradley-Terry model: P(slot 0 preferred) = sigmoid((score_0 - score_1) / temperature) (Wallace et al. 2023, Eq. 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from pipelines.judging.win_rate import WILSON, rate_over_prompts, wilson

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
BINS = 10  # rows of the calibration table
MIN_IN_BIN = 10  # pairs


def margins(score_0: Floats, score_1: Floats) -> npt.NDArray[np.float64]:
    """Subtract the scores [n] of slot 1 from those of slot 0, in float64."""
    return np.asarray(score_0, np.float64) - np.asarray(score_1, np.float64)


def hard_labels(margin: Floats, min_margin: float = 0.0) -> npt.NDArray[np.float32]:
    """Label pairs: the higher score wins; equal scores, and margins below min_margin, are ties.

    Returns:
        [n] float32 label_0: 1, 0 or 0.5.
    """
    tie = (margin == 0) | (np.abs(margin) < min_margin)
    return np.where(tie, 0.5, margin > 0).astype(np.float32)


def soft_labels(margin: Floats, temperature: float) -> npt.NDArray[np.float32]:
    """Compute P(slot 0 preferred), [n] float32, by the Bradley-Terry model."""
    return expit(np.asarray(margin, np.float64) / temperature).astype(np.float32)


def fit_temperature(margin: Floats, human: Floats) -> float | None:
    """Fit the Bradley-Terry temperature to human labels by maximum likelihood.

    The likelihood is concave in a = 1/temperature, so its maximum is the root of the slope
    sum_i x_i sigmoid(-a x_i), where x_i is the margin, signed so that positive agrees with the label.

    Args:
        margin: [n], finite.
        human: [n] label_0; ties are left out.

    Returns:
        The temperature, in units of the score; None where no finite positive one fits: the scores disagree with
        people on the whole, or agree on every pair.
    """
    from scipy.optimize import brentq  # slow to import, and few label sets have a temperature to fit

    decided = np.isin(human, (0.0, 1.0))
    signed = np.where(human[decided] == 1.0, margin[decided], -margin[decided]).astype(np.float64)
    if signed.sum() <= 0 or not (signed < 0).any():
        return None
    unit = np.abs(signed).mean()
    x = signed / unit

    def slope(a: float) -> float:
        return float((x * expit(-a * x)).sum())

    high = 1.0
    while slope(high) > 0:
        high *= 2
    return float(unit / brentq(slope, 0.0, high))


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How often a label set and people prefer the same slot; a tie of the label set counts a half."""

    value: float
    low: float  # lower end of the 95 % interval
    high: float
    pairs: int  # with a human label that is no tie
    ties: int  # of the label set, among them
    interval: str = WILSON  # its kind, as win_rate.py names it; older label sets have this kind without naming it


def agreement(label_0: Floats, human: Floats, prompts: Ints) -> Agreement:
    """Compare labels [n] with human labels [n]; pairs that people tied are left out.

    Args:
        prompts: [n] prompt_id of each pair; where a prompt has several, the interval is one of prompts.
    """
    decided = np.isin(human, (0.0, 1.0))
    points = 1.0 - np.abs(label_0[decided] - human[decided]).astype(np.float64)
    if not len(points):
        low, high = wilson(0, 0)
        return Agreement(value=0.5, low=low, high=high, pairs=0, ties=0)
    rate, interval = rate_over_prompts(points, prompts[decided])
    ties = int((label_0[decided] == 0.5).sum())
    return Agreement(value=rate.value, low=rate.low, high=rate.high, pairs=rate.n, ties=ties, interval=interval)


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Pairs of similar score margin: how often people preferred their winner, and how often the model predicts."""

    margin_from: float  # absolute, in the scorer's units
    margin_to: float
    pairs: int
    agreement: float
    low: float
    high: float
    predicted: float | None  # mean sigmoid(|margin| / temperature)


def calibration(margin: Floats, human: Floats, prompts: Ints, temperature: float | None) -> list[Bin]:
    """Cut pairs into bins of equal count by absolute margin, and measure each bin's agreement with people.

    Args:
        margin: [n], finite.
        human: [n] label_0; ties are left out.
        prompts: [n] prompt_id, by which intervals are clustered.
    """
    decided = np.isin(human, (0.0, 1.0))
    margin = margin[decided]
    human = human[decided]
    prompts = prompts[decided]
    order = np.argsort(np.abs(margin), kind="stable")
    bins = []
    for rows in np.array_split(order, max(1, min(BINS, len(order) // MIN_IN_BIN))):
        if len(rows):
            own = agreement(hard_labels(margin[rows]), human[rows], prompts[rows])
            size = np.abs(margin[rows]).astype(np.float64)
            predicted = float(expit(size / temperature).mean()) if temperature else None
            bins.append(
                Bin(
                    margin_from=float(size[0]),
                    margin_to=float(size[-1]),
                    pairs=own.pairs,
                    agreement=own.value,
                    low=own.low,
                    high=own.high,
                    predicted=predicted,
                )
            )
    return bins


def calibration_table(bins: list[Bin]) -> str:
    """Lay out a calibration table, for the terminal."""
    lines = [f"  {'|margin|':>21}  {'pairs':>7}  {'agreement (95 % interval)':>26}  {'predicted':>9}"]
    for row in bins:
        predicted = "" if row.predicted is None else f"{row.predicted:.3f}"
        span = f"{row.margin_from:.4g} to {row.margin_to:.4g}"
        agreement_span = f"{row.agreement:.3f} ({row.low:.3f} to {row.high:.3f})"
        lines.append(f"  {span:>21}  {row.pairs:>7,}  {agreement_span:>26}  {predicted:>9}")
    return "\n".join(lines)
