#!/usr/bin/env bash
# What happens: CAME's first step moves a matrix by 11 times the learning rate, whatever its gradient, and a bias or a norm
#   by a tenth of it. On gradients of noise the matrices' steps are still 2.5 times the rate after 100 steps and below it
#   after 1,000, where AdamW's are a quarter of the rate from step 100 on.
# Versions: came-pytorch 0.1.3, torch 2.13.0.
# Where: step in came_pytorch/CAME.py keeps averages with decays of 0.9, 0.999 and 0.9999 that begin at 0, without a
#   correction for that. The first average is 0.1 of the update; it is divided by the root of 0.0001 times 0.81, so by
#   0.009. Weights of one dimension skip that division.
# Who meets it: short fine-tunes with a learning rate taken from AdamW's or Adafactor's recipe. DPO runs of some hundred
#   steps pass in the part where matrices move too far.
# Guess that was wrong: the first step has about the size of the learning rate, as Adam's and Adafactor's have.
# Instead: a warm-up of several hundred steps, from a hundredth of the rate, and a look at how far the weights moved.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 \
  came-pytorch==0.1.3
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
from importlib.metadata import version

import torch
from came_pytorch import CAME

STEPS = (1, 10, 100, 1000)


def sizes(make):
    """Return how far steps on gradients of noise move a matrix and a bias, at a learning rate of 1."""
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.zeros(64, 64))
    bias = torch.nn.Parameter(torch.zeros(64))
    optimizer = make([matrix, bias])
    seen = []
    for step in range(1, 1001):
        before = [weight.detach().clone() for weight in (matrix, bias)]
        for weight in (matrix, bias):
            weight.grad = torch.randn_like(weight)
        optimizer.step()
        moved = [(weight.detach() - old).square().mean().sqrt().item() for weight, old in zip((matrix, bias), before)]
        if step in STEPS:
            seen.append(moved)
    return seen


came = sizes(lambda weights: CAME(weights, lr=1.0))
adamw = sizes(lambda weights: torch.optim.AdamW(weights, lr=1.0, weight_decay=0.0))


def told(seen):
    """Return the steps of the matrix and of the bias as text."""
    pairs = [f"{matrix:.2f} and {bias:.2f}" for matrix, bias in seen]
    return "; ".join(pairs)


print(f"came-pytorch {version('came-pytorch')}, torch {torch.__version__}; lr 1, steps {STEPS}, matrix and bias")
print("guess: 1 for both at the first step, less later, as AdamW")
print(f"seen:  AdamW {told(adamw)}")
print(f"       CAME  {told(came)}")
if not 10 < came[0][0] < 12 or not 0.08 < came[0][1] < 0.12 or came[2][0] < 2 or came[3][0] > 1:
    raise SystemExit("the behaviour has changed")
if not all(0.9 < moved < 1.1 for moved in adamw[0]) or adamw[2][0] > 0.3:
    raise SystemExit("the behaviour has changed")
PYTHON
