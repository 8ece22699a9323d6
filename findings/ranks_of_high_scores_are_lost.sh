#!/usr/bin/env bash
# What happens: torchmetrics' AUROC of scores between 18 and 24, which is PickScore's range, is 0.50 on scores that
#   separate the two classes; minus 20.5 the same scores have 0.77. Values outside [0, 1] go through a float32 sigmoid
#   first, and above 17 that is 1 for all of them: every score ties with every other.
# Versions: torchmetrics 1.9.0, torch 2.13.0.
# Where: `normalize_logits_if_needed` in torchmetrics/utilities/compute.py, before curves and average precision, too.
# Who meets it: agreement of a scorer with people (PickScore, CLIP and HPS times 100), and beta times the margin of a
#   preference model, which in Diffusion-DPO is in the tens.
# Guess that was wrong: AUROC depends on the order of the scores alone, so no shift matters.
# Instead: subtract the scores' median, or use float64 ranks; scikit-learn's `roc_auc_score` takes scores as they are.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import torch
import torchmetrics
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

torch.manual_seed(0)
chosen = torch.randint(0, 2, (2000,))
scores = 20.5 + chosen + torch.randn(2000).clamp(-2, 2)  # from 18.5 to 23.5
found = {name: (BinaryAUROC()(values, chosen).item(), BinaryAveragePrecision()(values, chosen).item())
         for name, values in (("as they are", scores), ("minus 20.5", scores - 20.5))}
won, lost = scores[chosen == 1], scores[chosen == 0]
counted = (won[:, None] > lost[None]).double().mean().item()
print(f"torchmetrics {torchmetrics.__version__}; scores from {scores.min():.1f} to {scores.max():.1f}")
print(f"guess: AUROC {counted:.2f}, as counted over all pairs")
for name, (auroc, precision) in found.items():
    print(f"seen:  AUROC {auroc:.2f}, average precision {precision:.2f}, {name}")
if abs(found["as they are"][0] - 0.5) > 0.02 or abs(found["minus 20.5"][0] - counted) > 0.01 or counted < 0.7:
    raise SystemExit("the behaviour has changed")
PYTHON
