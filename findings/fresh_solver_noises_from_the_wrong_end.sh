#!/usr/bin/env bash
# What happens: add_noise of a DPM-Solver, UniPC or DEIS scheduler that was just built gives timestep t the noise of
#   timestep 999 - t. Asked for timestep 0 it returns almost pure noise. No warning; shapes and dtypes are right.
# Versions: diffusers 0.42.1, Stable Diffusion 1.5's schedule (no flow settings).
# Where: __init__ of scheduling_dpmsolver_multistep.py stores timesteps from 999 down and sigmas from the smallest up;
#   add_noise looks the time up in the one and takes the noise from the other. set_timesteps puts both in one order.
# Who meets it: a trainer that noises latents with the scheduler that lies in the model folder. Many folders name
#   one of these three, and a preference loss falls on such inputs all the same.
# Guess that was wrong: all schedulers of one noise table noise alike, as DDPM's does, for a whole-number timestep.
# Instead: noise by hand from alphas_cumprod, or with DDPMScheduler.from_config.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
from diffusers import DDPMScheduler, DEISMultistepScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

table = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
times = (0, 250, 700, 999)


def noise_share(scheduler, time):
    return scheduler.add_noise(torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([time])).item()


right = [noise_share(DDPMScheduler(**table), time) for time in times]
mirrored = [noise_share(DDPMScheduler(**table), 999 - time) for time in times]
print(f"torch {torch.__version__}, diffusers {diffusers.__version__}; share of noise at {times}")
print(f"guess: DDPM's        {[round(share, 4) for share in right]}")
for kind in (DPMSolverMultistepScheduler, UniPCMultistepScheduler, DEISMultistepScheduler):
    seen = [noise_share(kind(**table), time) for time in times]
    print(f"seen:  {kind.__name__:28} {[round(share, 4) for share in seen]}")
    if max(abs(a - b) for a, b in zip(seen, mirrored, strict=True)) > 1e-4:
        raise SystemExit("the behaviour has changed")
PYTHON
