#!/usr/bin/env bash
# What happens: `BootStrapper(MeanMetric(), sampling_strategy="multinomial")` that is fed 200 pairs one by one gives a
#   win rate with a standard deviation of exactly 0; fed two by two it is 0.6 of the right one. Fed all at once it is
#   right. Each update draws again only within its own batch, and of one pair there is but one draw.
# Versions: torchmetrics 1.9.0, torch 2.13.0.
# Where: `BootStrapper.update` in torchmetrics/wrappers/bootstrapping.py.
# Who meets it: win rates, held-out accuracy and scores of a policy against its base, updated pair by pair or in small
#   batches, with an interval from the wrapper. The mean is right, so the interval is believed.
# Guess that was wrong: an interval does not depend on how the data came in batches.
# Instead: the default strategy, "poisson", or keep the outcomes and resample them all at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import torch
import torchmetrics
from torchmetrics import MeanMetric
from torchmetrics.wrappers import BootStrapper

torch.manual_seed(0)
wins = (torch.rand(200) < 0.6).float()
exact = (wins.mean() * (1 - wins.mean()) / len(wins)).sqrt().item()
found = {}
for strategy in ("multinomial", "poisson"):
    for size in (200, 2, 1):
        metric = BootStrapper(MeanMetric(), num_bootstraps=300, sampling_strategy=strategy)
        for batch in wins.split(size):
            metric.update(batch)
        found[strategy, size] = metric.compute()["std"].item()
print(f"torchmetrics {torchmetrics.__version__}; win rate {wins.mean():.3f} of {len(wins)} pairs")
print(f"guess: a standard deviation of {exact:.4f}, however the pairs came")
for (strategy, size), spread in found.items():
    print(f"seen:  {spread:.4f}, {strategy}, updates of {size}")
if (found["multinomial", 1] > 1e-6 or not 0.5 < found["multinomial", 2] / exact < 0.9
        or any(abs(found[key] / exact - 1) > 0.25 for key in (("multinomial", 200), ("poisson", 1)))):
    raise SystemExit("the behaviour has changed")
PYTHON
