#!/usr/bin/env bash
# What happens: transformers' Adafactor keeps its moments in float32 for bfloat16 weights. load_state_dict of the same
#   optimizer turns them into bfloat16 without a word. A resumed run differs from one that was never stopped.
# Versions: transformers 5.23.0, torch 2.13.0.
# Where: Adafactor.step in transformers/optimization.py computes in float32. The cast is in torch, in
#   Optimizer._process_value_according_to_param_policy (torch/optim/optimizer.py): all but `step` gets the weight's
#   dtype.
# Who meets it: Diffusion-DPO trains SDXL with this optimizer. Whoever holds the weights in bfloat16 and resumes.
# Guess that was wrong: the state comes back as it was saved, and the resumed weights are equal to the bit.
# Instead: keep float32 master weights, or write the saved tensors into optimizer.state yourself after loading.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import copy

import torch
import transformers
from transformers.optimization import Adafactor


def made(weight):
    return Adafactor([weight], lr=1e-3, scale_parameter=False, relative_step=False)


def step(optimizer, weight, gradient):
    weight.grad = gradient.clone()
    optimizer.step()


torch.manual_seed(0)
gradients = [torch.randn(128, 128).bfloat16() for _ in range(40)]
unbroken = torch.nn.Parameter(torch.randn(128, 128).bfloat16())
first = made(unbroken)
for gradient in gradients[:20]:
    step(first, unbroken, gradient)

resumed = torch.nn.Parameter(unbroken.detach().clone())
second = made(resumed)
second.load_state_dict(copy.deepcopy(first.state_dict()))
before = first.state[unbroken]["exp_avg_sq_row"].dtype
after = second.state[resumed]["exp_avg_sq_row"].dtype
for gradient in gradients[20:]:
    step(first, unbroken, gradient)
    step(second, resumed, gradient)
different = int((unbroken != resumed).sum())

print(f"torch {torch.__version__}, transformers {transformers.__version__}")
print("guess: float32 before and after load_state_dict, and 0 weights differ")
print(f"seen:  {before} before, {after} after, {different} of {unbroken.numel()} weights differ 20 steps later")
if before != torch.float32 or after != torch.bfloat16 or different == 0:
    raise SystemExit("the behaviour has changed")
PYTHON
