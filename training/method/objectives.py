"""The objectives: from errors to losses. This file is read top to bottom: weights, margins, logits, losses.

Equation numbers without a name are those of Wallace et al. 2023, "Diffusion Model Alignment Using Direct Preference
Optimization", arXiv 2311.12908. An error is the mean over C, H, W of (prediction - target)^2, float32, one per image
(training/method/forward.py). Errors of a micro-batch are [2, B]: row 0 winners, row 1 losers. With N = C*H*W:

    margin  m = (e_w - e_l)_policy - (e_w - e_l)_reference        same t and noise for both slots; negative is good
    logit   u = -(beta/2) * m
    reward  r = -(beta/2) * (e_policy - e_reference)              of each image; u is the winner's minus the loser's

The half comes from Eq. 46 (beta/2 ||.||^2), the mean from the authors' released code. Other writings of the same loss
have another beta. Eq. 46 with sums over N has beta/N; pseudo-code S9 with sums and no half has beta/(2N). diffusers'
SD1.5 script takes the mean and no half, so its 2500 is 5000 here.

Weights w_t multiply all errors of a pair, so u_t = w_t u stands inside sigma.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch.nn import functional as F

from training.method.objective_config import ObjectiveConfig

NEAR_ZERO = 1e-2  # of k e, below which phi is its series: 1 - x/2 + x^2/12, the next term is x^4/720


class NoiseLevels(Protocol):
    """A noise schedule as the weights see it; every backbone is one."""

    def signal_to_noise(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return alpha^2 / sigma^2 of each timestep, [B] float32."""
        ...

    def epsilon_factor(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return the factor that makes a native error one of the noise, at each timestep, [B] float32."""
        ...


def weights(config: ObjectiveConfig, levels: NoiseLevels, timesteps: torch.Tensor) -> torch.Tensor:
    """Compute w_t, by which a pair's native errors are multiplied.

    constant: Eq. 14 weighs errors of the noise alike. For models that predict noise the weight is then 1, and other
        code takes 1 for all models. With --error eps it is the epsilon factor, which is right for all.
    min-snr: Hang et al. 2023, arXiv 2303.09556: min(SNR, gamma) on errors of x_0. On errors of the noise that is
        min(SNR, gamma) / SNR, and 1 where SNR = 0; the epsilon factor carries it over to native errors. For velocity
        it comes to min(SNR, gamma) / (SNR + 1), for flow to min(SNR, gamma) * s^2. So --error makes no difference.

    Args:
        timesteps: [B] int64.

    Returns:
        [B] float32, 0 or more.
    """
    if config.weighting == "min-snr":
        signal_to_noise = levels.signal_to_noise(timesteps)
        cut = signal_to_noise.clamp(max=config.snr_gamma) / signal_to_noise
        return torch.where(signal_to_noise > 0, cut, 1.0) * levels.epsilon_factor(timesteps)
    if config.error == "eps":
        return levels.epsilon_factor(timesteps)
    return torch.ones(timesteps.shape, device=timesteps.device)


def margins(policy_errors: torch.Tensor, reference_errors: torch.Tensor) -> torch.Tensor:
    """Compute m of Eq. 14 from errors [2, ...], row 0 winners and row 1 losers; one margin a pair, [...]."""
    return (policy_errors[0] - policy_errors[1]) - (reference_errors[0] - reference_errors[1])


def logits(margin: torch.Tensor, beta: float) -> torch.Tensor:
    """Compute u = -(beta/2) m, [B]: the log odds that the winner is preferred, under the policy's implicit reward."""
    return -0.5 * beta * margin


def loss(
    config: ObjectiveConfig,
    policy_errors: torch.Tensor,
    reference_errors: torch.Tensor | None,
    preferred: torch.Tensor | float = 1.0,
    baseline: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """Compute each pair's loss from weighted errors.

    Args:
        policy_errors: [2, B], row 0 winners, row 1 losers, with gradient.
        reference_errors: the same of the reference, without gradient; None where the objective needs none.
        preferred: [B] P(row 0 is preferred), of soft.
        baseline: z of kto, a scalar without gradient.

    Returns:
        [B]. In nats for dpo, conservative, soft and dmpo; in squared units of the target for sft, mapo's first term
        and what --sft-weight adds; else without unit. The caller takes the mean over pairs.
    """
    if config.objective == "sft":
        return policy_errors[0]
    if config.objective == "mapo":  # Hong et al. 2024, arXiv 2406.06424: SFT and the gap of the policy's own scores
        winner, loser = mapo_scores(policy_errors, config.mapo_k)
        return policy_errors[0] - config.mapo_b * F.logsigmoid(config.mapo_t * (winner - loser))
    assert reference_errors is not None
    compared = comparison(config, policy_errors, reference_errors, preferred, baseline)
    return compared + config.sft_weight * policy_errors[0] if config.sft_weight else compared


def comparison(
    config: ObjectiveConfig,
    policy_errors: torch.Tensor,
    reference_errors: torch.Tensor,
    preferred: torch.Tensor | float,
    baseline: torch.Tensor | float,
) -> torch.Tensor:
    """Compute the loss of each pair that compares policy and reference, [B]; arguments as in `loss`."""
    u = logits(margins(policy_errors, reference_errors), config.known_beta)
    match config.objective:
        case "dpo":  # Eq. 14: -log sigma(u)
            return -F.logsigmoid(u)
        case "conservative":  # Mitchell 2023, "A note on DPO with noisy preferences": cross-entropy with P = 1 - a
            a = config.label_smoothing
            return -(1 - a) * F.logsigmoid(u) - a * F.logsigmoid(-u)
        case "soft":  # Eq. 4's cross-entropy with the label's own probability (Eq. 3) in place of 1
            return -preferred * F.logsigmoid(u) - (1 - preferred) * F.logsigmoid(-u)
        case "ipo":  # Azar et al. 2023, arXiv 2310.12036, Eq. 17, times tau^2: its tau h is u
            return (u - 0.5).square()
        case "hinge":  # Zhao et al. 2023 (SLiC-HF), arXiv 2305.10425, on u: Liu et al. 2023 (RSO), arXiv 2309.06657
            return F.relu(1 - u)
        case "dmpo":  # Li et al. 2025, arXiv 2507.07510: the reverse KL, of the policy's preference to the label's
            return bernoulli_divergence(u, config.dmpo_alpha)
    assert (
        config.objective == "kto"
    )  # Li et al. 2024, arXiv 2404.04465: 1 - sigma(y (r - z)), y +1 winners, -1 losers; mean
    gains = rewards(policy_errors, reference_errors, config.known_beta) - baseline
    return 0.5 * (F.sigmoid(-gains[0]) + F.sigmoid(gains[1]))


def bernoulli_divergence(u: torch.Tensor, alpha: float) -> torch.Tensor:
    """Compute KL(Bernoulli(sigma(u)) || Bernoulli(1 - alpha)), the same shape, in nats; 0 at u = log((1-alpha)/alpha).

    With p = sigma(u) it is p log(p / (1-alpha)) + (1-p) log((1-p) / alpha), and its slope is
    p (1-p) (u - log((1-alpha)/alpha)). So a pair that the policy has far on the wrong side teaches little. In dpo, the
    same divergence with its two sides exchanged and alpha 0, it teaches most. The formula is derived here from what the
    paper's abstract names, the reverse KL, and is the one in Diffusion-SDPO's code. We could not read the paper's own
    equation.
    """
    winner = F.sigmoid(u) * (F.logsigmoid(u) - math.log1p(-alpha))
    return winner + F.sigmoid(-u) * (F.logsigmoid(-u) - math.log(alpha))


def mapo_scores(error: torch.Tensor, k: float) -> torch.Tensor:
    """Compute MaPO's phi(e) = k e / (exp(k e) - 1), the same shape: 1 where the error is 0, falling to 0."""
    x = k * error
    near = x < NEAR_ZERO
    far = torch.where(near, 1.0, x)  # the branch not taken must not spoil the gradient
    return torch.where(near, 1 - x / 2 + x.square() / 12, far * torch.exp(-far) / -torch.expm1(-far))


def rewards(policy_errors: torch.Tensor, reference_errors: torch.Tensor, beta: float) -> torch.Tensor:
    """Estimate each image's implicit reward, Eq. 40 (S4.1): -(beta/2) (e_policy - e_reference), in logits.

    It holds up to a constant of the caption. A lower policy error means a higher reward; the paper's Eq. 48 has lost
    that minus. Errors and rewards have the same shape.
    """
    return -0.5 * beta * (policy_errors - reference_errors)


def kto_baseline(parts: Sequence[torch.Tensor], world_size: int = 1) -> torch.Tensor:
    """Compute z of kto: the mean reward of all images of a global batch, not below 0, without gradient.

    A reward that is not finite is left out: its own pair's loss or gradient stops the step and names that pair alone.
    The authors' code takes the mean over all ranks of one micro-batch, and has no half: its beta 5000 is 10000 here.

    Args:
        parts: this rank's rewards by micro-batch, of any shape.
        world_size: how many ranks share the global batch; all of them must call this.

    Returns:
        A float32 scalar, summed in float64.
    """
    mine = torch.cat([part.detach().flatten() for part in parts]).double()
    total = torch.stack([torch.where(mine.isfinite(), mine, 0.0).sum(), mine.new_tensor(len(mine))])
    if world_size > 1:
        dist.all_reduce(total)
    return (total[0] / total[1]).clamp(min=0).float()


def implicit_accuracy(margin: torch.Tensor) -> torch.Tensor:
    """Score each pair 1 where the winner has the higher implicit reward (m < 0), 0 where lower, a half where equal."""
    return (margin < 0).to(torch.float32) + 0.5 * (margin == 0).to(torch.float32)
