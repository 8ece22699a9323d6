"""Winners and losers watched apart: how far the policy's errors are from the reference's, in words, and when to stop.

DPO cares for the difference of a pair's two errors alone. So both may grow, the loser's faster: accuracy then rises
while images fall apart. A change is policy's error / reference's error - 1, at the same pairs and draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SIDES = ("winner", "loser")
CLOSE = 0.005  # a change that is not worth a word
CHANGE = "winner_change"  # of an assessment: over the steps since the one before

Rows = Sequence[dict[str, Any]]


def changes(rows: Rows) -> dict[str, float]:
    """Compute each side's change over the steps of some notes; empty where there is no reference or no note of it."""
    known = [row for row in rows if row.get("reference_winner_error") is not None]
    by_side = {}
    for side in SIDES:
        reference = sum(row[f"reference_{side}_error"] for row in known)
        if reference > 0:
            by_side[side] = sum(row[f"{side}_error"] for row in known) / reference - 1
    return by_side


def since(steps: Rows, assessments: Rows, step: int) -> dict[str, float]:
    """Compute the winners' change over the steps after the last assessment before a step, for the one at this step."""
    before = max((row["step"] for row in assessments if row["step"] < step), default=0)
    by_side = changes([row for row in steps if before < row["step"] <= step])
    return {CHANGE: by_side["winner"]} if "winner" in by_side else {}


def words(rows: Rows) -> str:
    """Say how both sides stand against the reference; empty where there is none."""
    by_side = changes(rows)
    if len(by_side) < len(SIDES):
        return ""
    winner = by_side["winner"]
    loser = by_side["loser"]
    return f"winners {_against(winner)} than the reference, losers {_against(loser)}: {_verdict(winner, loser)}"


def _against(change: float) -> str:
    return f"{abs(change):.1%} {'worse' if change > 0 else 'better'}"


def _verdict(winner: float, loser: float) -> str:
    if abs(winner) <= CLOSE and abs(loser) <= CLOSE:
        return "the policy is close to the reference"
    if winner > CLOSE and loser > CLOSE:
        return "the policy is moving away from both"
    if winner > loser:
        return "the policy is learning the losers"
    return "the policy tells them apart"


def reason_to_stop(assessments: Rows, limit: float, checks: int) -> str | None:
    """Say why a run should stop: the winners' change was above a limit at its last checks; None where it was not.

    Args:
        assessments: the run's notes, oldest first.
        limit: a change, for example 0.05.
        checks: how many in a row.
    """
    last = [row for row in assessments if CHANGE in row][-checks:]
    if len(last) < checks or not all(row[CHANGE] > limit for row in last):
        return None
    shown = ", ".join(f"{row[CHANGE]:.1%} at step {row['step']:,}" for row in last)
    return f"the winners' error was more than {limit:.1%} above the reference's at {checks} checks in a row ({shown})"


def healthy_step(assessments: Rows, limit: float) -> int | None:
    """Return the step of the last assessment whose winners were within a limit, None without one."""
    fine = [row["step"] for row in assessments if CHANGE in row and row[CHANGE] <= limit]
    return fine[-1] if fine else None
