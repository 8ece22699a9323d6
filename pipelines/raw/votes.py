"""Votes of several people on a pair: the soft label that they make, and a count of them for the terminal."""

from __future__ import annotations

from pipelines.raw.comparisons import Comparison


def probability_0(one: Comparison) -> float:
    """Return P(slot 0 preferred): the share of votes for slot 0.

    It is the label itself, 0, 0.5 or 1, where there are no votes, or where they are against the label.
    """
    if one.votes is None or _is_against(one):
        return one.label_0
    return one.votes[0] / sum(one.votes)


def _is_against(one: Comparison) -> bool:
    """Say whether most votes are for the loser, or for one image of a tie."""
    assert one.votes is not None
    difference = one.votes[0] - one.votes[1]
    return difference * (one.label_0 - 0.5) < 0 or (one.label_0 == 0.5 and difference != 0)


class Votes:
    """Counts the pairs with votes of several people, and how far these agree."""

    def __init__(self) -> None:
        self.pairs = 0
        self.ties = 0
        self.against = 0
        self.agreed = 0  # pairs whose winner has most votes, or as many
        self.share = 0.0  # of the votes for the winner, summed over these

    def add(self, one: Comparison) -> None:
        """Count a pair."""
        if one.votes is None:
            return
        self.pairs += 1
        if _is_against(one):
            self.against += 1
        elif one.label_0 == 0.5:
            self.ties += 1
        else:
            self.agreed += 1
            self.share += max(one.votes) / sum(one.votes)

    def sentence(self) -> str:
        """Say what the votes are, and what becomes of them."""
        parts = [f"{self.pairs:,} pairs have votes of several people"]
        if self.agreed:
            parts.append(f"on average {self.share / self.agreed:.1%} of a pair's votes are for the winner")
        if self.ties:
            parts.append(f"{self.ties:,} of them have as many for either image and are ties")
        if self.against:
            parts.append(
                f"in {self.against:,} of them most votes are against the set's own label, which then stands alone"
            )
        return "; ".join(parts) + ". The shares are soft labels: train on them with --objective soft"
