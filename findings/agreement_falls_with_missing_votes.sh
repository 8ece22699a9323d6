#!/usr/bin/env bash
# What happens: torchmetrics' Fleiss' kappa of votes that all agree is 0.29 where one image has five votes, one four and
#   two have three; with three votes each it is 1. statsmodels' aggregate_raters, which makes such counts, takes a missing
#   vote (NaN) for a third answer beside 0 and 1: kappa of raters who never disagree is then 0.71.
# Versions: torchmetrics 1.9.0, torch 2.13.0, statsmodels 0.15.0, numpy 2.4.6.
# Where: `_fleiss_kappa_compute` in torchmetrics/functional/nominal/fleiss_kappa.py takes the greatest number of votes for
#   that of every image; `aggregate_raters` in statsmodels/stats/inter_rater.py counts each of `np.unique`'s values.
# Who meets it: preferences of people, where few pairs have the same number of votes.
# Guess that was wrong: 1 for full agreement, or an error; statsmodels' `fleiss_kappa` does refuse unequal counts.
# Instead: pairs with the same number of votes, or Krippendorff's alpha, which is made for missing ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 \
  statsmodels==0.15.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2> warnings <<'PYTHON'
import numpy as np
import statsmodels
import torch
import torchmetrics
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa
from torchmetrics.nominal import FleissKappa

equal = [[3, 0], [0, 3], [3, 0], [0, 3]]  # votes for slot 0 and slot 1 of four pairs: every rater agrees
unequal = [[5, 0], [0, 4], [3, 0], [0, 3]]
kappas = [FleissKappa(mode="counts")(torch.tensor(counts)).item() for counts in (equal, unequal)]
try:
    refused = fleiss_kappa(np.array(unequal))
except AssertionError:
    refused = "an AssertionError"
missing = np.nan
votes = np.array([[1, 1, 1], [0, 0, missing], [1, 1, 1], [0, 0, 0]])
table, answers = aggregate_raters(votes)
with_missing = fleiss_kappa(table)
print(f"torchmetrics {torchmetrics.__version__}, statsmodels {statsmodels.__version__}; raters who all agree")
print("guess: 1.00 for torchmetrics; a missing vote is left out by statsmodels, or refused")
print(f"seen:  {kappas[0]:.2f} with three votes each, {kappas[1]:.2f} with 5, 4, 3 and 3; statsmodels: {refused}")
print(f"       statsmodels' answers {answers.tolist()}, counts {table.tolist()}, kappa {with_missing:.2f}")
if round(kappas[0], 2) != 1 or not 0.2 < kappas[1] < 0.4 or refused != "an AssertionError":
    raise SystemExit("the behaviour has changed")
if len(answers) != 3 or not 0 < with_missing < 0.8:
    raise SystemExit("the behaviour has changed")
PYTHON
