#!/usr/bin/env bash
# What happens: SD3's paper draws the time of a training step from a logit-normal distribution, and says that a
#   positive mean leans towards noise. diffusers' recipe, `timesteps[(u * 1000).long()]`, indexes a table that falls
#   from 1000 to 1: a mean of 1 trains at a noise level of 0.30 on average, and -1 at 0.70. It is the paper's
#   distribution mirrored.
# Versions: diffusers 0.42.1.
# Where: `compute_density_for_timestep_sampling` in diffusers/training_utils.py gives u; the table is that of
#   `FlowMatchEulerDiscreteScheduler`. The recipe is that of the SD3 and FLUX training scripts.
# Who meets it: whoever carries logit_mean over from the paper, from another trainer, or into one that takes u itself
#   as the noise level. The default 0 is symmetric and hides it. `mode_scale` is mirrored likewise.
# Guess that was wrong: u is the noise level, so a positive mean means more noise.
# Instead: turn the mean's sign, or take u as sigma without the table.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
  transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling

COUNT = 100_000
scheduler = FlowMatchEulerDiscreteScheduler()


def drawn(mean):
    """Return the mean of u, and of the noise level that the recipe takes for it."""
    u = compute_density_for_timestep_sampling(
        "logit_normal", COUNT, logit_mean=mean, logit_std=1.0, generator=torch.Generator().manual_seed(0)
    )
    timesteps = scheduler.timesteps[(u * scheduler.config.num_train_timesteps).long()]
    return u.mean().item(), (timesteps / scheduler.config.num_train_timesteps).mean().item()


found = {mean: drawn(mean) for mean in (-1.0, 0.0, 1.0)}
print(f"diffusers {diffusers.__version__}; mean noise level, 0 is the image and 1 is noise")
print("guess: " + ", ".join(f"{u:.2f} for logit_mean {mean:g}" for mean, (u, _) in found.items()))
print("seen:  " + ", ".join(f"{level:.2f} for logit_mean {mean:g}" for mean, (_, level) in found.items()))
if not found[1.0][1] < 0.35 < 0.65 < found[-1.0][1] or found[1.0][0] < 0.65:
    raise SystemExit("the behaviour has changed")
PYTHON
