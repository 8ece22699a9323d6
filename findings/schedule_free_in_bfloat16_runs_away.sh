#!/usr/bin/env bash
# What happens: schedule-free AdamW on bfloat16 weights first gets nearer to the target, and then leaves it again.
#   After 2,000 steps its inner weights z are 40 times as far off as in float32, further than at the start, and the
#   averaged weights are worse than at step 500. Plain AdamW on bfloat16 weights does not do this.
# Versions: schedulefree 1.4.1, torch 2.13.0.
# Where: schedulefree/adamw_schedulefree.py keeps z in the weights' dtype, and moves the trained point towards z by a
#   share of 1/step. bfloat16 rounds these moves away, so the gradient is always that of about the same point, and z
#   runs on.
# Who meets it: memory is saved with bfloat16 weights and no float32 copy; schedule-free methods are taken where the
#   length of a run is open, as in preference training.
# Guess that was wrong: rounding stops the progress early, as it does for other optimizers.
# Instead: float32 weights under autocast.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 schedulefree==1.4.1
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import importlib.metadata

import schedulefree
import torch

STEPS = (500, 2000)


def distances(dtype, free):
    """Return how far the weights, and those that z has, are from their target at each of STEPS."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter((0.05 * torch.randn(64, 64)).to(dtype))
    target = 0.05 * torch.randn(64, 64)
    kind = schedulefree.AdamWScheduleFree if free else torch.optim.AdamW
    optimizer = kind([weight], lr=1e-3, weight_decay=0.0)
    found = []
    for step in range(1, max(STEPS) + 1):
        if free:
            optimizer.train()
        (weight.float() - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in STEPS:
            if free:
                optimizer.eval()
            points = [weight, optimizer.state[weight]["z"]] if free else [weight]
            found.append([(point.float() - target).square().mean().sqrt().item() for point in points])
    return found


version = importlib.metadata.version("schedulefree")
print(f"schedulefree {version}, torch {torch.__version__}; root mean square distance from the target")
seen = {dtype: distances(dtype, free=True) for dtype in (torch.float32, torch.bfloat16)}
plain = distances(torch.bfloat16, free=False)
print("guess: bfloat16 stops at some distance, and stays there")
for dtype, found in seen.items():
    parts = [f"{average:.4f} and z {z:.4f} at {step}" for step, (average, z) in zip(STEPS, found, strict=True)]
    print(f"seen:  {'; '.join(parts)}, {str(dtype)[6:]}")
print(f"       plain AdamW, bfloat16: {plain[0][0]:.4f} at {STEPS[0]}, {plain[1][0]:.4f} at {STEPS[1]}")
(early, early_z), (late, late_z) = seen[torch.bfloat16]
exact_z = seen[torch.float32][1][1]
if not late > early > plain[1][0] or late_z < max(1.5 * early_z, 10 * exact_z):
    raise SystemExit("the behaviour has changed")
PYTHON
