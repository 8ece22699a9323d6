#!/usr/bin/env bash
# What happens: torchmetrics' Spearman correlation of five scores with one NaN is 0.40, and Kendall's 0.60; Pearson's is
#   NaN. NaN ranks as the greatest score. BinaryAUROC does the same: a winner whose score is NaN counts as recognised, a
#   loser as mistaken.
# Versions: torchmetrics 1.9.0, torch 2.13.0, scipy 1.17.1, numpy 2.4.6.
# Where: `_rank_data` in torchmetrics/functional/regression/spearman.py ranks by `argsort`, which puts NaN last.
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
"$folder/venv/bin/python" - 2> warnings <<'PYTHON'
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
won = torch.tensor([1, 1, 0, 0])
winner = BinaryAUROC()(torch.tensor([0.9, math.nan, 0.2, 0.1]), won).item()
loser = BinaryAUROC()(torch.tensor([0.9, 0.8, math.nan, 0.1]), won).item()
scipys = float(scipy.stats.spearmanr(scores.numpy(), ratings.numpy()).statistic)
print(f"torchmetrics {torchmetrics.__version__}; five scores, the second of them NaN")
print(f"guess: nan for each, as scipy's spearmanr: {scipys}")
print(f"seen:  {', '.join(f'{name} {value:.2f}' for name, value in found.items())}; {as_infinity:.2f} with 9 in its place")
print(f"       AUROC {winner:.2f} where a winner's score is NaN, {loser:.2f} where a loser's is")
if abs(found["SpearmanCorrCoef"] - 0.4) > 1e-3 or abs(as_infinity - 0.4) > 1e-3 or not math.isnan(scipys):
    raise SystemExit("the behaviour has changed")
if abs(found["KendallRankCorrCoef"] - 0.6) > 1e-3 or not math.isnan(found["PearsonCorrCoef"]):
    raise SystemExit("the behaviour has changed")
if winner != 1 or loser >= 1:
    raise SystemExit("the behaviour has changed")
PYTHON
