#!/usr/bin/env bash
# What happens: BinaryAccuracy decides for each batch whether it was given logits or probabilities: a sigmoid is
#   applied where any value lies outside [0, 1]. A batch of logits that are all positive and small is taken for
#   probabilities, and those below 0.5 count as wrong. One value below 0 in the batch, and the same others count as
#   right.
# Versions: torchmetrics 1.9.0, torch 2.13.0.
# Where: `normalize_logits_if_needed` in torchmetrics/utilities/compute.py; precision, recall, F1 and calibration use
#   it.
# Who meets it: a preference run's logit is 0 at the start and small for long. In a micro-batch of one pair, half of
#   all right answers are counted as wrong; with larger batches only the best batches are, those without any error.
# Guess that was wrong: a batch whose logits are all on the right side of 0 has accuracy 1.
# Instead: give `(logits > 0)`, or `torch.sigmoid(logits)`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import torch
import torchmetrics
from torchmetrics.classification import BinaryAccuracy

right = torch.tensor([0.1, 0.2, 0.3, 0.4])  # logits that the winner is preferred: all four pairs are right
wrong = torch.tensor([-0.1])


def accuracy(logits):
    """Return the share of pairs whose winner has the higher reward."""
    return BinaryAccuracy()(logits, torch.ones(len(logits), dtype=torch.int)).item()


alone = accuracy(right)
beside = accuracy(torch.cat([right, wrong]))
print(f"torchmetrics {torchmetrics.__version__}; logits {[round(value, 1) for value in right.tolist()]}")
print("guess: 1.0 of four right pairs, 0.8 with a wrong one beside them")
print(f"seen:  {alone:.1f} of four right pairs, {beside:.1f} with a wrong one beside them")
print(f"       of probabilities: {accuracy(torch.sigmoid(right)):.1f}")
if (alone, round(beside, 1), accuracy(torch.sigmoid(right))) != (0.0, 0.8, 1.0):
    raise SystemExit("the behaviour has changed")
PYTHON
