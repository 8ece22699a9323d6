#!/usr/bin/env bash
# What happens: cohen_kappa_score with weights="quadratic" weighs a disagreement by the places of the two labels in the
#   sorted list of those that occur, not by their values. Raters who gave 1, 2 and 10 of ten points are as far apart at 2
#   and 10 as at 1 and 2: kappa is 0.82, where the points give 0.99.
# Versions: scikit-learn 1.9.1, numpy 2.4.6.
# Where: `cohen_kappa_score` in sklearn/metrics/_classification.py: its weights are differences of places in the
#   confusion matrix, and `labels` says what these are.
# Who meets it: agreement of two raters, or of a rater and a scorer, on a scale of which not every value occurs.
# Guess that was wrong: numbers are weighed by their differences, as krippendorff's interval alpha and irrCAC do.
# Instead: `labels=range(1, 11)`, or numbers without gaps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import sklearn
from sklearn.metrics import cohen_kappa_score


def by_value(one, other):
    """Compute the quadratic kappa of numbers by their differences."""
    first = np.array(one, float)
    second = np.array(other, float)
    chance = ((first[:, None] - second[None]) ** 2).mean()
    return 1 - ((first - second) ** 2).mean() / chance


one = [1, 2, 1, 2, 1, 10, 10, 2, 1]
other = [2, 1, 1, 2, 1, 10, 10, 2, 1]
plain = cohen_kappa_score(one, other, weights="quadratic")
listed = cohen_kappa_score(one, other, weights="quadratic", labels=list(range(1, 11)))
print(f"scikit-learn {sklearn.__version__}; ratings {one} and {other}")
print(f"guess: {by_value(one, other):.2f}")
print(f"seen:  {plain:.2f}; {listed:.2f} with the labels 1 to 10")
found = [round(float(value), 2) for value in (plain, listed)]
if found != [0.82, 0.99] or round(by_value(one, other), 2) != 0.99:
    raise SystemExit("the behaviour has changed")
PYTHON
