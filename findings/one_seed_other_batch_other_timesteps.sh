#!/usr/bin/env bash
# What happens: compute_density_for_timestep_sampling with one seed gives other timesteps to the same first samples when
#   the batch has another size. Batches of 8 and 16 share none of 8, of 20 and 24 share 12 of 20, of 16 and 32 all.
# Versions: torch 2.13.0 (CPU generator), diffusers 0.42.1.
# Where: torch's CPU normal fill (aten/src/ATen/native/cpu/DistributionTemplates.h) draws in blocks of 16, pairs the
#   first half of a block with its second, and draws the last 16 again when the size is no multiple of 16. Below 16 it
#   takes another routine. Uniform numbers do not behave so.
# Who meets it: comparing SD3 or FLUX runs of two micro-batch sizes under one seed, or drawing more and taking the
#   first.
# Guess that was wrong: a longer draw begins with the shorter one.
# Instead: key the draw by sample (seed, epoch, pair), not by its place in a batch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling


def drawn(size, scheme="logit_normal"):
    generator = torch.Generator().manual_seed(0)
    return compute_density_for_timestep_sampling(scheme, size, logit_mean=0.0, logit_std=1.0, generator=generator)


shared = {}
for small, large in ((8, 16), (20, 24), (16, 32)):
    shared[small, large] = int((drawn(small) == drawn(large)[:small]).sum())
uniform = int((drawn(20, "none") == drawn(24, "none")[:20]).sum())
print(f"torch {torch.__version__}, diffusers {diffusers.__version__}; equal among the first, by the two batch sizes")
print("guess: {(8, 16): 8, (20, 24): 20, (16, 32): 16}")
print(f"seen:  {shared}; uniform numbers of 20 and 24: {uniform}")
if shared != {(8, 16): 0, (20, 24): 12, (16, 32): 16} or uniform != 20:
    raise SystemExit("the behaviour has changed")
PYTHON
