"""Why a pair has no score and what else is counted of it, by names that several files know; it loads no torch."""

from __future__ import annotations

NOT_FINITE = "score is not finite"
UNANSWERED = "no answer: "  # begins the reason of a pair that a server failed to judge; it may be asked again
# Columns that a scorer may add for each pair, summed up in its label set.
COUNTED = ("prompt_tokens", "completion_tokens", "order_disagreements")


def is_unanswered(reason: str | None) -> bool:
    """Say whether a pair has no score because a server gave no answer, so that it may have one later."""
    return reason is not None and reason.startswith(UNANSWERED)
