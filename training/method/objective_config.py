"""The objectives' flags, apart from their formulas, so that reading them loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Objective = Literal["dpo", "conservative", "soft", "ipo", "hinge", "dmpo", "kto", "mapo", "sft"]
REFERENCE_FREE = ("mapo", "sft")  # these have no beta either
OF_LOGIT = ("dpo", "conservative", "soft", "ipo", "hinge", "dmpo")  # of u alone: the safeguard may scale one side
OF_SIGMA = ("dpo", "conservative", "soft", "dmpo")  # of sigma(u): --beta auto may ask for its mean


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is minimised."""

    objective: Objective = "dpo"
    """Loss to minimise. dpo is the paper's. conservative takes a share of the labels to be wrong. soft takes
    probabilities from the label set. ipo, hinge and dmpo are other losses of a pair. kto judges each image by
    itself. mapo needs no reference. sft learns the winners alone."""
    beta: float | Literal["auto"] = 5000.0
    """How strongly the policy is held to the reference; greater is stronger. The paper takes 2000 to 5000.
    docs/method.md has the formula. auto finds a beta at each step from the step's own pairs."""
    beta_target: float = 0.25
    """For --beta auto: weight that the mean pair of a step shall keep, between 0 and 0.5. Beta is lowered until it
    does."""
    beta_most: float = 5000.0
    """For --beta auto: greatest beta, with which a run begins."""
    safeguard: float | None = None
    """Share of its own gradient that each winner keeps beside its loser's, from 0 to 1 (Diffusion-SDPO, which takes
    0.9 for SD1.5 and 0.6 for SDXL); 0 only keeps winners from getting worse. By default there is no safeguard."""
    label_smoothing: float = 0.1
    """For conservative: share of labels that are taken to be wrong, from 0 to below 0.5."""
    dmpo_alpha: float = 0.01
    """For dmpo: probability that the loser is the better image after all, between 0 and 0.5."""
    sft_weight: float = 0.0
    """Weight of the winner's own error beside the loss, which keeps winners from getting worse; 0 leaves it out. At
    the start the loss pulls at that error with beta/4; begin with a tenth of this."""
    mapo_k: float = 0.5
    """For mapo: how fast an image's score falls with its error."""
    mapo_b: float = 0.1
    """For mapo: weight of the gap between winner's and loser's score, beside the winner's error."""
    mapo_t: float = 1000.0
    """For mapo: factor of that gap, the number of training timesteps."""
    weighting: Literal["constant", "min-snr"] = "constant"
    """Weight of each noise level: constant, as in the paper, or min-snr (Hang et al. 2023)."""
    snr_gamma: float = 5.0
    """For min-snr: greatest signal-to-noise ratio that counts."""
    error: Literal["native", "eps"] = "native"
    """Error to compare: native is that of the model's own target, eps that of the noise it implies. Change beta with
    it."""

    @property
    def needs_reference(self) -> bool:
        """Say whether the reference's errors enter the loss."""
        return self.objective not in REFERENCE_FREE

    @property
    def needs_whole_step(self) -> bool:
        """Say whether the loss of one pair depends on all others of its step."""
        return self.objective == "kto" or self.beta == "auto"

    @property
    def known_beta(self) -> float:
        """Return beta as a number; for auto only `with_beta` makes it one."""
        assert self.beta != "auto"
        return self.beta

    @property
    def greatest_beta(self) -> float:
        """Return the greatest beta that a step may have."""
        return self.beta_most if self.beta == "auto" else self.beta

    def with_beta(self, beta: float) -> ObjectiveConfig:
        """Return these settings with a beta that was found for a step."""
        return replace(self, beta=beta) if self.beta == "auto" else self
