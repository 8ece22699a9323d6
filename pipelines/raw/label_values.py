"""The labels of a whole source, looked at before a pair is encoded: those of another scale leave only one side.

Of -1 and 1, for example, the encoder would keep the pairs whose slot 0 won, and quarantine all others one by one.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from infra.base.errors import UserError

LEAST = 4  # rows; fewer may be slips
SHARE = 0.25  # of the rows with a label


class LabelValues:
    """Counts the labels of a source that are none of 0, 0.5 and 1."""

    def __init__(self) -> None:
        self.rows = 0
        self.others: Counter[float] = Counter()
        self.no_numbers = 0

    def add(self, piece: pa.Table) -> None:
        """Count the next rows of a source; those without a label are passed over."""
        labels = np.array([label for label in piece["label_0"].to_pylist() if label is not None], float)
        self.rows += len(labels)
        self.no_numbers += int(np.isnan(labels).sum())
        self.others.update(labels[~np.isnan(labels) & ~np.isin(labels, (0.0, 0.5, 1.0))].tolist())

    def refuse(self, where: str) -> None:
        """Refuse a source of which a quarter of the labels are none.

        Raises:
            UserError: beginning with where, with the commonest other label.
        """
        count = self.no_numbers + self.others.total()
        if count < max(LEAST, SHARE * self.rows):
            return
        most = self.others.most_common(1)
        shown = f"for example {most[0][0]:g} in {most[0][1]:,}" if most else "as they are no numbers"
        raise UserError(
            f"{where}: {count:,} of {self.rows:,} rows have a label_0 that is none, {shown}; write 1 where image 0 was "
            "preferred, 0 where image 1 was, and 0.5 for a tie"
        )
