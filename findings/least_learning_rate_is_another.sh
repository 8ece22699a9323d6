#!/usr/bin/env bash
# What happens: `get_scheduler("cosine_with_min_lr", ..., min_lr=1e-6)` ends at 1e-6 only where the optimizer was told
#   its learning rate as an argument. Told in its parameter groups, as diffusers' scripts do, a rate of 1e-5 ends at
#   1e-8; with LoRA+, whose B matrices learn 16 times as fast, these end at 1.6e-5.
# Versions: transformers 5.23.0, torch 2.13.0, peft 0.21.2.
# Where: `get_cosine_with_min_lr_schedule_with_warmup` in transformers/optimization.py divides min_lr by
#   `optimizer.defaults["lr"]`, which is AdamW's own 1e-3 where only groups have a rate.
# Who meets it: LoRA+ (peft's `create_loraplus_optimizer`), other rates for text encoder and network, or any optimizer
#   that was made of groups.
# Guess that was wrong: every group ends at min_lr.
# Instead: `min_lr_rate`, a share of each group's own rate.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 \
  peft==0.21.2
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import get_scheduler

LEAST, STEPS = 1e-6, 100


def ends(optimizer, **least):
    """Return the groups' rates after the last step."""
    schedule = get_scheduler("cosine_with_min_lr", optimizer, 10, STEPS, scheduler_specific_kwargs=least)
    for _ in range(STEPS):
        optimizer.step()
        schedule.step()
    return [group["lr"] for group in optimizer.param_groups]


def weight():
    """Return a parameter."""
    return torch.nn.Parameter(torch.zeros(4))


adapted = get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 8)), LoraConfig(r=2, target_modules=["0"]))
plus = create_loraplus_optimizer(adapted, torch.optim.AdamW, lr=1e-5, loraplus_lr_ratio=16)
found = {
    "AdamW(weights, lr=1e-5)": ends(torch.optim.AdamW([weight()], lr=1e-5), min_lr=LEAST),
    "AdamW([{weights, lr 1e-5}])": ends(torch.optim.AdamW([{"params": [weight()], "lr": 1e-5}]), min_lr=LEAST),
    "LoRA+, lr 1e-5, B 1.6e-4": sorted({rate for rate in ends(plus, min_lr=LEAST)}),
}
share = ends(torch.optim.AdamW([{"params": [weight()], "lr": 1e-5}]), min_lr_rate=0.1)
print(f"transformers {transformers.__version__}; min_lr {LEAST:.1e}")
print(f"guess: every group ends at {LEAST:.1e}")
for name, rates in found.items():
    print(f"seen:  {', '.join(f'{rate:.1e}' for rate in rates)} for {name}")
print(f"       {share[0]:.1e} for groups with min_lr_rate=0.1")
told, grouped, fast = found.values()
if abs(told[0] / LEAST - 1) > 1e-3 or grouped[0] > 2e-8 or max(fast) < 1e-5 or abs(share[0] / LEAST - 1) > 1e-3:
    raise SystemExit("the behaviour has changed")
PYTHON
