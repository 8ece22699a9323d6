"""The flags of the judge of edits, apart from the judge."""

from __future__ import annotations

from dataclasses import dataclass

from infra.base.places import PathText


@dataclass(frozen=True, kw_only=True)
class SdeditConfig:
    """Flags of the judge."""

    base: PathText
    """Scored folder of the base's edits."""
    policy: PathText
    """Scored folder of the policy's edits."""
    scorer: str = "oracle"
    """Scorer whose scores decide."""
    tie_margin: float = 0.0
    """Greatest difference of scores that is still a tie, in the scorer's units."""
    output: PathText = "runs/sdedit.json"
    """File to write, local or s3://."""
