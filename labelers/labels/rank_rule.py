"""Soft labels from ranks: a pair of a group counts by how far apart its two images stand there.

    phi_i  = share of its comparisons that image i wins, ties half
    tau_i  = 1 + number of images of its group with a higher phi
    G_i    = 2^phi_i - 1        gain
    D_i    = ln(1 + tau_i)      discount
    w_ij   = |G_i - G_j| |1/D_i - 1/D_j|                    (RankDPO, Karthik et al. 2024, arXiv 2410.18013)
    p_ij   = 1/2 + w_ij / (2 max of w in the group)         probability that the higher phi is preferred

RankDPO multiplies a pair's DPO loss by w. At the start of training the logit u is 0. There that loss has the slope
-w/2, and the soft labels' loss -(p - 1/2), so both weigh pairs alike, as shares of the group's greatest weight.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def rank_labels(groups: Ints, images: Ints, labels: Floats) -> tuple[Floats, Floats]:
    """Rank the images of each group by the pairs of a label set.

    Args:
        groups: [n] group of each pair.
        images: [n, 2] ids of its images, by slot; an image is of one group.
        labels: [n] label_0.

    Returns:
        phi of each slot, [2, n], and P(slot 0 preferred), [n].
    """
    ids, places = np.unique(images, return_inverse=True)
    slots = places.reshape(images.shape)
    wins = np.bincount(slots[:, 0], labels, len(ids)) + np.bincount(slots[:, 1], 1 - labels, len(ids))
    phi = wins / np.bincount(slots.ravel(), minlength=len(ids))
    group_of_image = np.empty(len(ids), np.int64)
    for slot in (0, 1):
        group_of_image[slots[:, slot]] = groups
    gain = np.exp2(phi) - 1
    discount = np.log1p(ranks(group_of_image, phi))
    weights = np.abs(np.diff(gain[slots], axis=1) * np.diff(1 / discount[slots], axis=1))[:, 0]
    _, of_group = np.unique(groups, return_inverse=True)
    greatest = np.zeros(of_group.max() + 1)
    np.maximum.at(greatest, of_group, weights)
    share = weights / np.where(greatest > 0, greatest, 1.0)[of_group]
    values = phi[slots].T
    return values, 0.5 + np.sign(values[0] - values[1]) * share / 2


def labels_of_ties(images: Ints, scores: Floats, tied: Ints) -> Floats:
    """Say what a label set has for pairs that people tied, which no label set holds.

    Args:
        images: [n, 2] ids of the images of the set's own pairs, by slot.
        scores: [n, 2] the set's scores of them; NaN where it has labels alone.
        tied: [m, 2] ids of the images of the tied pairs; each of them is among images.

    Returns:
        label_0 of the tied pairs, [m], by the images' mean scores; 0.5 where there are none.
    """
    ids, places = np.unique(images, return_inverse=True)
    mean = np.bincount(places.ravel(), scores.ravel()) / np.bincount(places.ravel())
    gap = np.diff(mean[np.searchsorted(ids, tied)], axis=1)[:, 0]
    return 0.5 - np.sign(np.nan_to_num(gap)) / 2


def ranks(groups: Ints, phi: Floats) -> Ints:
    """Rank images within their groups, [m]: 1 is the highest phi, and equal ones share a rank."""
    order = np.lexsort((-phi, groups))
    place = np.arange(len(order))
    is_first = np.r_[True, np.diff(groups[order]) != 0]
    is_other = is_first | np.r_[True, np.diff(phi[order]) != 0]
    begin_of_group = np.maximum.accumulate(np.where(is_first, place, 0))
    begin_of_equals = np.maximum.accumulate(np.where(is_other, place, 0))
    tau = np.empty(len(order), np.int64)
    tau[order] = 1 + begin_of_equals - begin_of_group
    return tau
