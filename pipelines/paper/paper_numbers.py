"""What the paper itself reports, as far as we could read it: figures from the text of Wallace et al. 2023 and Tab. 2.

Read in a stored copy of arXiv 2311.12908 without its supplement and without the values drawn in its figures: those of
Figs. 6, 7, S2 and S4 are left out. Each figure says what it was measured by; people's percentages, of SD1.5 or SDXL,
are another thing than an automated judge's rate on this world.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

By = Literal["people", "people’s labels", "not said", "PickScore"]


@dataclass(frozen=True)
class Published:
    """One statement of the paper."""

    what: str
    value: str
    by: By  # who or what it was measured by
    where: str  # section or table


NUMBERS: dict[str, tuple[Published, ...]] = {
    "beta_ablation": (
        Published("β of good performance, SD1.5 and SDXL", "2,000 to 5,000", "PickScore", "Sec. 5.1, Supp. S5"),
        Published("learning rate at β", "2000/β · 2.048e-8", "not said", "Sec. 5.1"),
    ),
    "sft": (
        Published("DPO-SDXL over SDXL, PartiPrompts, general preference", "70.0 %", "people", "Sec. 5.2"),
        Published("the same on HPSv2’s prompts", "64.7 %", "people", "Sec. 5.2"),
        Published("DPO-SD1.5 over SD1.5, PartiPrompts, general preference", "59.8 %", "people", "Sec. 5.4"),
        Published("SFT of SD1.5 over SD1.5", "55.5 %", "not said", "Sec. 5.5"),
        Published("SFT of SDXL", "worse by any amount", "not said", "Sec. 5.5"),
    ),
    "in_distribution": (
        Published("Dreamlike trained on its own images, over Dreamlike", "better, by little", "PickScore", "Sec. 5.5"),
        Published("SDXL trained on images worse than its own", "substantially better", "PickScore", "Sec. 5.5"),
    ),
    "feedback": (
        Published("SD1.5 on the human labels, PartiPrompts, general preference", "59.8 %", "people", "Sec. 5.4"),
        Published("SD1.5 on PickScore’s labels", "63.3 %", "people", "Sec. 5.4"),
        Published("training on aesthetics", "at the expense of CLIP", "not said", "Sec. 5.4"),
    ),
    "implicit_reward": (
        Published("PickScore, which has seen the pairs", "64.2 %", "people’s labels", "Tab. 2"),
        Published("HPS", "59.3 %", "people’s labels", "Tab. 2"),
        Published("CLIP", "57.1 %", "people’s labels", "Tab. 2"),
        Published("Aesthetics", "51.4 %", "people’s labels", "Tab. 2"),
        Published("DPO-SD1.5", "60.8 %", "people’s labels", "Tab. 2"),
        Published("DPO-SDXL", "72.0 %", "people’s labels", "Tab. 2"),
    ),
    "rejection_sampling": (),
    "sdedit": (
        Published("DPO-SDXL’s edit preferred, TEd-Bench, strength 0.6", "65 %", "people", "Sec. 5.3"),
        Published("draws", "11 %", "people", "Sec. 5.3"),
        Published("SDXL’s edit preferred", "24 %", "people", "Sec. 5.3"),
    ),
    "stability": (),
}  # fmt: skip
