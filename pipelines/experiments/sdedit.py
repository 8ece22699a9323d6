"""Judge edits as the paper does, by win, tie and loss: `python pipelines/sdedit.py --base runs/a --policy runs/b`.

Both folders are edits of the same start images by generate.py --init-images, scored by score.py. Only image 0 of each
caption counts, so that the cases are independent and Wilson's interval holds.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.base import files
from infra.base.errors import UserError, check_least
from pipelines.experiments.sdedit_config import SdeditConfig
from pipelines.judging.comparison import Drawn, check_comparable, check_scorers, read_drawn
from pipelines.judging.score_files import paired_scores
from pipelines.judging.win_rate import rate_of
from pipelines.reports.judges import judge_titles

OUTCOMES = {"win": 1.0, "draw": 0.5, "loss": 0.0}  # points of each in the win rate; "draw" is a tie


def outcomes(policy: npt.NDArray[np.floating], base: npt.NDArray[np.floating], tie_margin: float) -> dict[str, Any]:
    """Count wins, ties and losses over paired scores [n], each with its share and 95 % interval (Wilson 1927).

    Returns:
        For win, draw (a tie) and loss: count, and value, low, high and n of its share. For win_rate, where a tie counts
        a half: value, low, high and n.

    Raises:
        ValueError: if a score is not finite; an image without a score must not count as a tie.
    """
    difference = policy.astype(np.float64) - base.astype(np.float64)
    if not np.isfinite(difference).all():
        raise ValueError("scores must be finite")
    points = np.where(np.abs(difference) <= tie_margin, 0.5, (difference > 0).astype(np.float64))
    counted: dict[str, Any] = {}
    for name, worth in OUTCOMES.items():
        own = (points == worth).astype(np.float64)
        counted[name] = {"count": int(own.sum()), **asdict(rate_of(own))}
    return counted | {"win_rate": asdict(rate_of(points))}


def judge(policy: Drawn, base: Drawn, scorer: str, tie_margin: float) -> dict[str, Any]:
    """Compare two folders of edits by one scorer.

    Raises:
        UserError: if one has no start images or no scores of the scorer, or they differ in more than the model.
    """
    for one in (base, policy):
        if "strength" not in one.identity:
            raise UserError(f"{one.folder}: not drawn from start images; draw with generate.py --init-images")
        if scorer not in one.scorers:
            raise UserError(f"--scorer {scorer}: has not scored {one.folder}; run score.py --scorers {scorer}")
    check_comparable(policy, base)
    check_scorers(policy, base, [scorer])
    ours, theirs = paired_scores(policy.scores, base.scores, scorer)
    return outcomes(ours, theirs, tie_margin)


def main(config: SdeditConfig) -> None:
    """Count how often the policy's edits win, tie and lose against the base's, by one scorer."""
    check_least(config, {"tie_margin": 0})
    base = read_drawn(config.base)
    policy = read_drawn(config.policy)
    counted = judge(policy, base, config.scorer, config.tie_margin)
    output = files.resolve(config.output)
    about = {"strength": policy.identity["strength"], "init_images": policy.identity["init_images"]}
    drawn = {"base": dict(base.identity), "policy": dict(policy.identity)}
    files.write_json(output, {"outcomes": counted, **about, "drawn": drawn, "config": asdict(config)})
    for name in OUTCOMES:
        one = counted[name]
        print(f"{name} {one['count']} of {one['n']}: {one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})")
    title = judge_titles(base.folder, [config.scorer])[config.scorer]
    print(f"by {title} at strength {policy.identity['strength']:g}; {output}", flush=True)
