#!/usr/bin/env bash
# What happens: crowd-kit's MajorityVote of two raters of whom one says "left" and one "right" is "left", for every task
#   and whatever the order of the rows: of equally many votes the label that comes first in the alphabet wins. So does
#   DawidSkene with such raters, and of the labels 0 and 1 it is 0.
# Versions: crowd-kit 1.4.2, pandas 2.3.3, numpy 2.4.6.
# Where: `get_most_probable_labels` in crowdkit/aggregation/utils.py takes `idxmax` over columns sorted by label; the
#   probabilities beside it do say 0.5.
# Who meets it: comparisons with an even number of votes. Ties become wins of one slot, and a model that stands there
#   more often gains them all.
# Guess that was wrong: ties are left out, NaN, or broken at random.
# Instead: `fit_predict_proba`, and keep 0.5 as a tie.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check crowd-kit==1.4.2 pandas==2.3.3 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import pandas as pd
from crowdkit.aggregation import DawidSkene, MajorityVote


def votes(first, second):
    """Return votes on eight tasks, one for each of two labels."""
    rows = [(f"task {task}", worker, label) for task in range(8) for worker, label in (("x", first), ("y", second))]
    return pd.DataFrame(rows, columns=["task", "worker", "label"])


def winners(method, table):
    """Return how many tasks went to each label."""
    return method.fit_predict(table).value_counts().to_dict()


found = {
    "right first": winners(MajorityVote(), votes("right", "left")),
    "left first": winners(MajorityVote(), votes("left", "right")),
    "rows turned round": winners(MajorityVote(), votes("left", "right").iloc[::-1]),
    "1 and 0": winners(MajorityVote(), votes(1, 0)),
    "DawidSkene": winners(DawidSkene(n_iter=10), votes("right", "left")),
}
shares = MajorityVote().fit_predict_proba(votes("right", "left")).to_numpy()
print(f"crowd-kit {importlib.metadata.version('crowd-kit')}; eight tasks, each with a vote for left and one for right")
print("guess: about half of them left, or no label")
for name, counts in found.items():
    print(f"seen:  {counts} ({name})")
print(f"       probabilities {sorted(set(shares.ravel().tolist()))}")
others = [counts for name, counts in found.items() if name != "1 and 0"]
if any(counts != {"left": 8} for counts in others) or found["1 and 0"] != {0: 8} or (shares != 0.5).any():
    raise SystemExit("the behaviour has changed")
PYTHON
