"""The objectives: from errors to a loss. Wallace et al. 2023, "Diffusion Model Alignment Using Direct Preference
Optimization", arXiv 2311.12908; equation numbers are that paper's.

An error is the mean over C, H, W of (prediction - target)^2, float32, one per image. With N = C*H*W:

    margin  m = (e_w - e_l)_policy - (e_w - e_l)_reference        same t and noise for both slots; negative is good
    logit   u = -(beta/2) * m

The half comes from Eq. 46 (beta/2 ||.||^2), the mean from the authors' released code. The same loss in other writings:
Eq. 46 with sums over N has beta/N; pseudo-code S9 with sums and no half has beta/(2N); diffusers' SD1.5 script takes
the mean and no half, so its 2500 is 5000 here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

Objective = Literal["dpo", "sft"]


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised."""

    objective: Objective = "dpo"
    """dpo: Eq. 14; sft: the winner's denoising error alone."""
    beta: float = 5000.0
    """Strength of the pull to the reference, mean convention (see training/objectives.py). Paper: 2000 to 5000."""

    @property
    def needs_reference(self) -> bool:
        """Say whether the reference's errors enter the loss."""
        return self.objective == "dpo"


def errors(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute each image's error.

    Args:
        prediction, target: [B, C, H, W], any float dtype; the arithmetic is float32 or better.

    Returns:
        [B]: the mean over C, H, W of the squared difference.
    """
    wide = torch.promote_types(target.dtype, torch.float32)
    return (prediction.to(wide) - target.to(wide)).square().flatten(1).mean(1)


def margins(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Compute m of Eq. 14 from errors [2, B] (row 0 winners, row 1 losers) of policy and reference; [B]."""
    return (policy[0] - policy[1]) - (reference[0] - reference[1])


def logits(margin: torch.Tensor, beta: float) -> torch.Tensor:
    """Compute u = -(beta/2) m, [B]: the log odds that the winner is preferred, under the policy's implicit reward."""
    return -0.5 * beta * margin


def loss(config: ObjectiveConfig, policy: torch.Tensor, reference: torch.Tensor | None) -> torch.Tensor:
    """Compute each pair's loss.

    Args:
        policy: [2, B] errors, row 0 winners, row 1 losers, with gradient.
        reference: the same of the reference, without gradient; None where the objective needs none.

    Returns:
        [B], nats for dpo, squared units of the target for sft; the caller takes the mean over pairs.
    """
    match config.objective:
        case "sft":
            return policy[0]
        case "dpo":  # Eq. 14: -log sigma(u)
            assert reference is not None
            return -F.logsigmoid(logits(margins(policy, reference), config.beta))


def rewards(policy: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """Estimate the implicit reward, Eq. 40 (S4.1), up to a constant of the caption: -(beta/2) (e_policy - e_reference).

    A lower policy error means a higher reward; the paper's Eq. 48 has lost that minus.
    """
    return -0.5 * beta * (policy - reference)


def implicit_accuracy(margin: torch.Tensor) -> torch.Tensor:
    """Score each pair 1 where the winner has the higher implicit reward (m < 0), 0 where lower, a half where equal."""
    return (margin < 0).to(torch.float32) + 0.5 * (margin == 0).to(torch.float32)
