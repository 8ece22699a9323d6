#!/usr/bin/env bash
# What happens: B.from_config(a.config) gives another B before and after `a` is saved and reopened. A setting that `a`
#   took from its class's defaults is left out in memory, so B uses its own default. In the file it is written out, so B
#   takes it. Swapping Euler for DDIM in memory samples from timestep 950, from the saved folder from 999.
# Versions: diffusers 0.42.1.
# Where: ConfigMixin.extract_init_dict in diffusers/configuration_utils.py drops what `_use_default_values` lists;
#   to_json_string leaves that list out of the file.
# Who meets it: anybody who samples the policy with another solver than the base's and compares win rates. Two runs
#   with the same scheduler settings on paper start at different noise levels.
# Guess that was wrong: a configuration means the same in memory and in its own file.
# Instead: pass timestep_spacing (and every setting that matters) to from_config explicitly.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import tempfile

import diffusers
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

folder = tempfile.mkdtemp()
euler = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
euler.save_pretrained(folder)
reopened = EulerDiscreteScheduler.from_pretrained(folder)

starts = {}
for name, scheduler in (("in memory", euler), ("reopened", reopened)):
    ddim = DDIMScheduler.from_config(scheduler.config)
    ddim.set_timesteps(20)
    starts[name] = (ddim.config.timestep_spacing, int(ddim.timesteps[0]))

print(f"torch {torch.__version__}, diffusers {diffusers.__version__}")
print(f"Euler's own spacing: {euler.config.timestep_spacing} in memory, {reopened.config.timestep_spacing} reopened")
print("guess: both DDIM schedulers are linspace and start at 999")
print(f"seen:  {starts}")
if starts != {"in memory": ("leading", 950), "reopened": ("linspace", 999)}:
    raise SystemExit("the behaviour has changed")
PYTHON
