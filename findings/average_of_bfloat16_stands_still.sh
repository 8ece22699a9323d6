#!/usr/bin/env bash
# What happens: weights in bfloat16 go from 1 to 1.25 and stay there. After 5,000 steps the exponential moving averages of
#   four libraries are still at 1, for decays of 0.99, 0.999 and 0.9999. In float32 they are at 1.25, 1.248 and 1.1.
# Versions: diffusers 0.42.1, torch-ema 0.3, ema-pytorch 0.8.3, torch 2.13.0.
# Where: each keeps the average in the weights' own dtype and adds (1 - decay) times the difference to it: step of
#   EMAModel in diffusers/training_utils.py, update in torch_ema/ema.py, inplace_lerp in ema_pytorch/ema_pytorch.py,
#   get_ema_multi_avg_fn in torch/optim/swa_utils.py. Near 1 bfloat16 has no number between 1 and 1.0078, so an addition
#   of 0.0025 is rounded away, each time again.
# Who meets it: fine-tunes with weights in bfloat16 that save or judge the average: it is the base that they judge.
# Guess that was wrong: the average is kept in float32, or moves with some noise.
# Instead: an average over float32 copies of the weights, filled before each of its steps, or weights in float32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
  transformers==5.23.0 torch-ema==0.3 ema-pytorch==0.8.3
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { tail -n 5 log >&2; exit 1; }
from importlib.metadata import version

import torch
from diffusers.training_utils import EMAModel
from ema_pytorch import EMA
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch_ema import ExponentialMovingAverage

DECAYS = (0.99, 0.999, 0.9999)


def diffusers_one(layer, decay):
    """Return a step of diffusers' average and where to read it."""
    average = EMAModel(layer.parameters(), decay=decay, min_decay=decay)
    return lambda: average.step(layer.parameters()), lambda: average.shadow_params[0]


def torch_ema_one(layer, decay):
    """Return a step of torch-ema's average and where to read it."""
    average = ExponentialMovingAverage(layer.parameters(), decay=decay, use_num_updates=False)
    return average.update, lambda: average.shadow_params[0]


def ema_pytorch_one(layer, decay):
    """Return a step of ema-pytorch's average and where to read it."""
    average = EMA(layer, beta=decay, min_value=decay, update_after_step=0, update_every=1)
    return average.update, lambda: average.ema_model.weight


def torch_one(layer, decay):
    """Return a step of torch's average and where to read it."""
    average = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(decay))
    return lambda: average.update_parameters(layer), lambda: average.module.weight


@torch.no_grad()
def ends(make, dtype):
    """Return the averages, for each decay, of weights that went from 1 to 1.25."""
    found = []
    for decay in DECAYS:
        layer = torch.nn.Linear(8, 8, bias=False, dtype=dtype)
        layer.weight.fill_(1.0)
        step, read = make(layer, decay)
        for _ in range(3):
            step()
        layer.weight.fill_(1.25)
        for _ in range(5000):
            step()
        found.append(round(read().float().mean().item(), 3))
    return found


KINDS = {"diffusers": diffusers_one, "torch-ema": torch_ema_one, "ema-pytorch": ema_pytorch_one, "torch": torch_one}
wide = {name: ends(make, torch.float32) for name, make in KINDS.items()}
narrow = {name: ends(make, torch.bfloat16) for name, make in KINDS.items()}
print(", ".join(f"{name} {version(name)}" for name in KINDS) + f"; 5,000 steps at 1.25, decays {DECAYS}")
print("guess: the same averages for bfloat16 weights as for float32, but for rounding")
for name in KINDS:
    print(f"seen:  {name}: float32 {wide[name]}, bfloat16 {narrow[name]}")
for name in KINDS:
    if narrow[name] != [1.0, 1.0, 1.0] or wide[name][0] != 1.25 or not 1.09 < wide[name][2] < 1.11:
        raise SystemExit("the behaviour has changed")
PYTHON
