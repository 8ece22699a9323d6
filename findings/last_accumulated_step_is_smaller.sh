#!/usr/bin/env bash
# What happens: accelerate divides each micro-batch's loss by `gradient_accumulation_steps`. At the end of an epoch it
#   steps with what is there, and does not divide by fewer. With 4 steps and 6 micro-batches the second update has half
#   the gradient of the first; with one micro-batch left, a quarter.
# Versions: accelerate 1.15.0, torch 2.13.0.
# Where: `backward` and `_do_sync` in accelerate/accelerator.py.
# Who meets it: small preference sets and large accumulation: with 32 micro-batches a step and 40 in the set, every
#   second update counts a quarter under SGD and gradient clipping, and moves Adam's second moments down.
# Guess that was wrong: an update has the mean gradient of the micro-batches that it was made of.
# Instead: drop the last micro-batches of an epoch, or `GradientAccumulationPlugin(num_steps=4,
#   sync_with_dataloader=False)`, which goes on counting over the end of the epoch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 accelerate==1.15.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import accelerate
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch.utils.data import DataLoader, TensorDataset


def gradients(epochs, **settings):
    """Return the gradient of each update where every micro-batch has the gradient 1."""
    accelerator = Accelerator(cpu=True, **settings)
    weight = torch.nn.Linear(1, 1, bias=False)
    parts = weight, torch.optim.SGD(weight.parameters(), lr=1.0), DataLoader(TensorDataset(torch.ones(6, 1)))
    network, optimizer, loader = accelerator.prepare(*parts)
    found = []
    for _ in range(epochs):
        for (row,) in loader:
            with accelerator.accumulate(network):
                accelerator.backward(network(row).mean())
                if accelerator.sync_gradients:
                    found.append(network.weight.grad.item())
                optimizer.step()
                optimizer.zero_grad()
    return found


seen = gradients(2, gradient_accumulation_steps=4)
over = gradients(2, gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=4, sync_with_dataloader=False))
print(f"accelerate {accelerate.__version__}; 6 micro-batches an epoch, 4 an update, each with gradient 1")
print("guess: 1.0, 1.0, 1.0, 1.0")
print(f"seen:  {', '.join(map(str, seen))}")
print(f"       with sync_with_dataloader=False: {', '.join(map(str, over))}")
if seen != [1.0, 0.5, 1.0, 0.5] or over != [1.0, 1.0, 1.0]:
    raise SystemExit("the behaviour has changed")
PYTHON
