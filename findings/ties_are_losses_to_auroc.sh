#!/usr/bin/env bash
# What happens: torchmetrics' BinaryAUROC takes float labels, and every label but 1 counts as a loss: a tie of 0.5, and a
#   vote of nine in ten. With votes of 0.9, 0.8, 0.2 and 0.1 and scores in the same order it is 0, not 1. BinaryAccuracy,
#   BinaryCalibrationError and BinaryAveragePrecision refuse such labels.
# Versions: torchmetrics 1.9.0, torch 2.13.0.
# Where: torchmetrics/functional/classification/auroc.py checks numbers of bins, not labels that are floats, and the
#   curve beneath it compares `target == pos_label`.
# Who meets it: agreement of a scorer with labels that hold ties, or with shares of votes.
# Guess that was wrong: an error, as of the other metrics.
# Instead: leave ties out, and `(votes > 0.5).long()`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0
cd "$folder"
"$folder/venv/bin/python" - 2> warnings <<'PYTHON'
import torch
import torchmetrics
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryAveragePrecision, BinaryCalibrationError


def auroc(scores, labels):
    return BinaryAUROC()(torch.tensor(scores), torch.tensor(labels)).item()


tie_on_top, tie_below = auroc([0.9, 0.1, 0.95], [1.0, 0.0, 0.5]), auroc([0.9, 0.1, 0.05], [1.0, 0.0, 0.5])
votes = auroc([0.9, 0.7, 0.3, 0.1], [0.9, 0.8, 0.2, 0.1])
refused = []
for metric in (BinaryAccuracy(), BinaryCalibrationError(), BinaryAveragePrecision()):
    try:
        metric(torch.tensor([0.9, 0.1, 0.95]), torch.tensor([1.0, 0.0, 0.5]))
    except (RuntimeError, ValueError):
        refused.append(type(metric).__name__)
print(f"torchmetrics {torchmetrics.__version__}; AUROC of labels that are floats")
print("guess: an error")
print(f"seen:  {tie_on_top} with a tie's score above the winner's, {tie_below} with it below the loser's")
print(f"       {votes} of votes 0.9, 0.8, 0.2, 0.1; refused by {', '.join(refused)}")
if (tie_on_top, tie_below, votes) != (0.5, 1.0, 0.0) or len(refused) != 3:
    raise SystemExit("the behaviour has changed")
PYTHON
