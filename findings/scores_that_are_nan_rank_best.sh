#!/usr/bin/env bash
# What happens: torchmetrics' Spearman correlation of five scores with one NaN is 0.40, and Kendall's 0.60; Pearson's is
#   NaN. For Spearman's NaN is the greatest score, and for BinaryAUROC: a winner whose score is NaN counts as recognised, a
#   loser as mistaken. For Kendall's a pair with it is neither in order nor out of order, and counts among the pairs.
# Versions: torchmetrics 1.9.0, torch 2.13.0, scipy 1.17.1, numpy 2.4.6.
# Where: `_rank_data` in torchmetrics/functional/regression/spearman.py ranks by `argsort`, which puts NaN last, and
#   `_binary_clf_curve` in functional/classification/precision_recall_curve.py by the same in descending order. In
#   functional/regression/kendall.py `<` and `>` of a NaN are both false, and the default variant divides by all pairs.
# Who meets it: agreement of a scorer with people, where one image's score is not finite. The number looks sound.
# Guess that was wrong: NaN, as scipy's spearmanr and kendalltau give.
# Instead: test `torch.isfinite(scores).all()` first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 \
  scipy==1.17.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import math

import scipy.stats
import torch
import torchmetrics
from torchmetrics import KendallRankCorrCoef, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import BinaryAUROC

scores = torch.tensor([0.1, math.nan, 0.3, 0.4, 0.5])
ratings = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
found = {type(metric).__name__: metric(scores, ratings).item()
         for metric in (SpearmanCorrCoef(), KendallRankCorrCoef(), PearsonCorrCoef())}
as_infinity = SpearmanCorrCoef()(torch.nan_to_num(scores, nan=9.0), ratings).item()
kendall_as_infinity = KendallRankCorrCoef()(torch.nan_to_num(scores, nan=9.0), ratings).item()
won = torch.tensor([1, 1, 0, 0])
winner = BinaryAUROC()(torch.tensor([0.9, math.nan, 0.2, 0.1]), won).item()
loser = BinaryAUROC()(torch.tensor([0.9, 0.8, math.nan, 0.1]), won).item()
scipys = [float(correlation(scores.numpy(), ratings.numpy()).statistic)
          for correlation in (scipy.stats.spearmanr, scipy.stats.kendalltau)]
print(f"torchmetrics {torchmetrics.__version__}; five scores, the second of them NaN")
print(f"guess: nan for each, as scipy's spearmanr and kendalltau: {scipys}")
print(f"seen:  {', '.join(f'{name} {value:.2f}' for name, value in found.items())}")
print(f"       with 9 in its place Spearman's is {as_infinity:.2f}, Kendall's {kendall_as_infinity:.2f}")
print(f"       AUROC {winner:.2f} where a winner's score is NaN, {loser:.2f} where a loser's is")
if abs(found["SpearmanCorrCoef"] - 0.4) > 1e-3 or abs(as_infinity - 0.4) > 1e-3 or not all(math.isnan(value) for value in scipys):
    raise SystemExit("the behaviour has changed")
if abs(found["KendallRankCorrCoef"] - 0.6) > 1e-3 or not math.isnan(found["PearsonCorrCoef"]):
    raise SystemExit("the behaviour has changed")
if abs(kendall_as_infinity - 0.4) > 1e-3 or winner != 1 or loser >= 1:
    raise SystemExit("the behaviour has changed")
PYTHON
