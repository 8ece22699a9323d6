"""The objectives: from errors to a loss. Wallace et al. 2023, "Diffusion Model Alignment Using Direct Preference
Optimization", arXiv 2311.12908; equation numbers without a name are that paper's.

An error is the mean over C, H, W of (prediction - target)^2, float32, one per image. With N = C*H*W:

    margin  m = (e_w - e_l)_policy - (e_w - e_l)_reference        same t and noise for both slots; negative is good
    logit   u = -(beta/2) * m
    reward  r = -(beta/2) * (e_policy - e_reference)              of each image; u is the winner's minus the loser's

The half comes from Eq. 46 (beta/2 ||.||^2), the mean from the authors' released code. The same loss in other writings:
Eq. 46 with sums over N has beta/N; pseudo-code S9 with sums and no half has beta/(2N); diffusers' SD1.5 script takes
the mean and no half, so its 2500 is 5000 here.

Weights w_t multiply all errors of a pair, so u_t = w_t u stands inside sigma.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

Objective = Literal["dpo", "conservative", "soft", "ipo", "hinge", "kto", "mapo", "sft"]
REFERENCE_FREE = ("mapo", "sft")  # these have no beta either
NEAR_ZERO = 1e-2  # of k e, below which phi is its series: 1 - x/2 + x^2/12, the next term is x^4/720


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised."""

    objective: Objective = "dpo"
    """dpo: Eq. 14; conservative: labels flipped with a known rate; soft: the label set's probabilities; ipo; hinge;
    kto: each image by itself; mapo: without a reference; sft: the winner's denoising error alone."""
    beta: float = 5000.0
    """Strength of the pull to the reference, as docs/method.md defines it. Paper: 2000 to 5000."""
    label_smoothing: float = 0.1
    """Of conservative: the share of labels taken to be wrong."""
    mapo_k: float = 0.5
    """Of mapo: how fast its score falls with the error."""
    mapo_b: float = 0.1
    """Of mapo: weight of the margin beside the winner's error."""
    mapo_t: float = 1000.0
    """Of mapo: factor of the margin, the number of training timesteps."""
    weighting: Literal["constant", "min-snr"] = "constant"
    """Weight of each timestep: constant, as the paper, or min-snr (Hang et al. 2023)."""
    snr_gamma: float = 5.0
    """Of min-snr: where it cuts the signal-to-noise ratio off."""
    error: Literal["native", "eps"] = "native"
    """Error of what the model predicts, or of the noise it implies; beta does not carry over between the two."""

    @property
    def needs_reference(self) -> bool:
        """Say whether the reference's errors enter the loss."""
        return self.objective not in REFERENCE_FREE


def errors(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute each image's error.

    Args:
        prediction, target: [B, C, H, W], any float dtype; the arithmetic is float32 or better.

    Returns:
        [B]: the mean over C, H, W of the squared difference.
    """
    wide = torch.promote_types(target.dtype, torch.float32)
    return (prediction.to(wide) - target.to(wide)).square().flatten(1).mean(1)


def weights(config: ObjectiveConfig, signal_to_noise: torch.Tensor, epsilon_factor: torch.Tensor) -> torch.Tensor:
    """Compute w_t, [B], by which a pair's native errors are multiplied, from the backbone's two functions of t, [B].

    constant: Eq. 14 weighs errors of the noise alike; 1 does so for models that predict noise, and is what other code
        does for all. --error eps multiplies by the backbone's epsilon factor.
    min-snr: Hang et al. 2023, arXiv 2303.09556: min(SNR, gamma) on errors of x_0. That is min(SNR, gamma) /
        SNR on errors of the noise (1 where SNR = 0), min(SNR, gamma) / (SNR + 1) on those of velocity, and by the same
        reckoning min(SNR, gamma) * s^2 on those of flow; so --error makes no difference to it.
    """
    if config.weighting == "min-snr":
        cut = signal_to_noise.clamp(max=config.snr_gamma) / signal_to_noise
        return torch.where(signal_to_noise > 0, cut, 1.0) * epsilon_factor
    return epsilon_factor if config.error == "eps" else torch.ones_like(epsilon_factor)


def margins(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Compute m of Eq. 14 from errors [2, B] (row 0 winners, row 1 losers) of policy and reference; [B]."""
    return (policy[0] - policy[1]) - (reference[0] - reference[1])


def logits(margin: torch.Tensor, beta: float) -> torch.Tensor:
    """Compute u = -(beta/2) m, [B]: the log odds that the winner is preferred, under the policy's implicit reward."""
    return -0.5 * beta * margin


def loss(
    config: ObjectiveConfig,
    policy: torch.Tensor,
    reference: torch.Tensor | None,
    preferred: torch.Tensor | float = 1.0,
    baseline: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """Compute each pair's loss.

    Args:
        policy: [2, B] weighted errors, row 0 winners, row 1 losers, with gradient.
        reference: the same of the reference, without gradient; None where the objective needs none.
        preferred: [B] P(row 0 is preferred), of soft.
        baseline: z of kto, a scalar without gradient.

    Returns:
        [B]; nats for dpo, conservative and soft, squared units of the target for sft and mapo's first term, else no
        unit. The caller takes the mean over pairs.
    """
    if config.objective == "sft":
        return policy[0]
    if config.objective == "mapo":  # Hong et al. 2024, arXiv 2406.06424: SFT and a margin of the policy's own scores
        winner, loser = mapo_scores(policy, config.mapo_k)
        return policy[0] - config.mapo_b * F.logsigmoid(config.mapo_t * (winner - loser))
    assert reference is not None
    u = logits(margins(policy, reference), config.beta)
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
        case "kto":  # Li et al. 2024, arXiv 2404.04465: 1 - sigma(y (r - z)), y +1 for winners, -1 for losers; mean
            gains = rewards(policy, reference, config.beta) - baseline
            return 0.5 * (F.sigmoid(-gains[0]) + F.sigmoid(gains[1]))


def mapo_scores(error: torch.Tensor, k: float) -> torch.Tensor:
    """Compute MaPO's phi(e) = k e / (exp(k e) - 1), the same shape: 1 where the error is 0, falling to 0."""
    x = k * error
    near = x < NEAR_ZERO
    far = torch.where(near, 1.0, x)  # the branch not taken must not spoil the gradient
    return torch.where(near, 1 - x / 2 + x.square() / 12, far * torch.exp(-far) / -torch.expm1(-far))


def rewards(policy: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """Estimate the implicit reward, Eq. 40 (S4.1), up to a constant of the caption: -(beta/2) (e_policy - e_reference).

    A lower policy error means a higher reward; the paper's Eq. 48 has lost that minus.
    """
    return -0.5 * beta * (policy - reference)


def kto_baseline(mean_reward: torch.Tensor) -> torch.Tensor:
    """Compute z of kto: the mean reward of all images of a global batch, not below 0, without gradient.

    The authors' code takes the mean over all ranks of one micro-batch, and has no half: its beta 5000 is 10000 here.
    """
    return mean_reward.detach().clamp(min=0)


def implicit_accuracy(margin: torch.Tensor) -> torch.Tensor:
    """Score each pair 1 where the winner has the higher implicit reward (m < 0), 0 where lower, a half where equal."""
    return (margin < 0).to(torch.float32) + 0.5 * (margin == 0).to(torch.float32)
