#!/usr/bin/env bash
# What happens: FlowMatchEulerDiscreteScheduler opened from a folder of DPM-Solver with flow_shift 3 (Sana's, Wan's) has
#   shift 1. The other way round, DPM-Solver or UniPC made from an Euler scheduler with shift 3 (SD3's, Z-Image's) has
#   flow_shift 1. No warning: the solvers call the same number otherwise, and each takes its own default.
# Versions: diffusers 0.42.1.
# Where: __init__ of schedulers/scheduling_dpmsolver_multistep.py and scheduling_unipc_multistep.py has flow_shift,
#   that of scheduling_flow_match_euler_discrete.py has shift; from_config drops names that a class does not have.
# Who meets it: trainers that open the folder's scheduler as Euler to read its 1,000 noise levels, as diffusers' own
#   scripts for LoRAs of Sana do. Half of the timesteps then lie at other levels than the model was trained at (the
#   middle one at 0.5 for 0.75). And whoever samples the policy with another solver than the base.
# Guess that was wrong: schedulers of one library exchange their settings by from_config, as its documents advise.
# Instead: pass shift=config.flow_shift, or flow_shift=config.shift, explicitly.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
sana = DPMSolverMultistepScheduler(**flow, flow_shift=3.0)
sana.save_pretrained("scheduler")
euler = FlowMatchEulerDiscreteScheduler.from_pretrained("scheduler")
meant = FlowMatchEulerDiscreteScheduler(shift=3.0)
middle = (round(meant.sigmas[500].item(), 3), round(euler.sigmas[500].item(), 3))

back = {}
for kind in (DPMSolverMultistepScheduler, UniPCMultistepScheduler):
    solver = kind.from_config(meant.config, **flow)
    solver.set_timesteps(4)
    back[kind.__name__] = (solver.config.flow_shift, [round(one, 2) for one in solver.sigmas.tolist()])

print(f"torch {torch.__version__}, diffusers {diffusers.__version__}")
print("guess: the shift of 3 stays 3; noise level 500 of 1000 is 0.75")
print(f"seen:  opened as Euler: shift {euler.config.shift}, level 500 is {middle[1]} for {middle[0]}")
for name, (shift, levels) in back.items():
    print(f"seen:  {name} made from Euler's settings: flow_shift {shift}, 4 steps at {levels}")
if euler.config.shift != 1.0 or middle != (0.75, 0.5) or any(shift != 1.0 for shift, _ in back.values()):
    raise SystemExit("the behaviour has changed")
PYTHON
