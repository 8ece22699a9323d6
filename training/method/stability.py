"""Two answers to a run that falls apart: a safeguard for winners, and a beta that a step's own pairs decide.

Both are arithmetic on numbers of a pair or of a step's whole global batch. So neither micro-batches nor workers change
them. training/method/objectives.py says where they enter the loss.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from scipy.optimize import brentq
from scipy.special import expit

NARROWER = 2.0**-0.25  # between the betas that are tried one after another


def loser_scales(winner_errors: torch.Tensor, overlaps: torch.Tensor, mu: float) -> torch.Tensor:
    """Compute lambda, by which the safeguard multiplies the gradient that each loser's error sends back.

    Fu et al. 2025, "Diffusion-SDPO", arXiv 2511.03317. A step against g_w - lambda g_l changes the winner's error by
    -eta (|g_w|^2 - lambda g_l g_w) to first order, which is at most -eta mu |g_w|^2 where

        lambda <= (1 - mu) |g_w|^2 / (g_l g_w)        if g_l g_w > 0; any lambda otherwise

    g are gradients with respect to the network's output, r = prediction - target but for a factor that cancels. So
    |g_w|^2 is N e_w, and g_l g_w is N times the overlap. Output space stands in for the space of weights, as in the
    paper. Their code takes one lambda for all pairs of a micro-batch; here each pair has its own.

    Args:
        winner_errors: [B] of the policy, 0 or more, without gradient.
        overlaps: [B] mean over C, H, W of r_w r_l, without gradient.
        mu: from 0, the winner's error does not grow, to 1, the loser is left out wherever it hurts.

    Returns:
        [B], from 0 to 1.
    """
    bound = (1 - mu) * winner_errors / overlaps
    return torch.where(overlaps > 0, bound.clamp(max=1.0), 1.0)


def scale_loser_gradients(policy_errors: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the errors [2, B] as they are, but with the gradients of row 1, the losers, multiplied by scales [B]."""
    loser = policy_errors[1]
    held = loser.detach()
    return torch.stack([policy_errors[0], held + scales * (loser - held)])


def auto_beta(margins: npt.NDArray[np.float64], target: float, most: float) -> float:
    """Find the greatest beta, up to a limit, that does not saturate a step's pairs.

    The mean of sigma(-u), u = -(beta/2) m, is by how much dpo's gradient still weighs its pairs: a half at beta 0, and
    falling as beta grows where the policy prefers most winners. The result is the limit where that mean is at least the
    target there, as in a run's first steps. Else it is a beta where the mean is the target: the first that is met on
    the way down from the limit, in steps of a factor 2^(-1/4). This rule is ours; it is in no paper.

    Args:
        margins: [n] of the step's whole global batch, in any order; those that are not finite are left out.
        target: mean of sigma(-u), above 0 and below a half.
        most: the limit, above 0.
    """
    known = np.sort(margins[np.isfinite(margins)])  # sums depend on the order, and that on the number of workers

    def excess(beta: float) -> float:
        return float(expit(0.5 * beta * known).mean()) - target

    if not len(known) or excess(most) >= 0:
        return most
    high = most
    low = high * NARROWER
    while excess(low) < 0:  # ends: at beta 0 the mean is a half
        high = low
        low *= NARROWER
    return float(brentq(excess, low, high))


def of_all_ranks(mine: torch.Tensor, world_size: int) -> torch.Tensor:
    """Collect values [n] of all ranks, which may have different numbers of them; all ranks must call this.

    Returns:
        [at least the sum of n], the same on every rank; NaN where a rank has fewer values than another.
    """
    if world_size == 1:
        return mine
    longest = torch.tensor([len(mine)], device=mine.device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    padded = mine.new_full((int(longest.item()),), float("nan"))
    padded[: len(mine)] = mine
    parts = [torch.empty_like(padded) for _ in range(world_size)]
    dist.all_gather(parts, padded)
    return torch.cat(parts)
