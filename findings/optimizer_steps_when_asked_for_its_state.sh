#!/usr/bin/env bash
# What happens: torch's get_optimizer_state_dict on an optimizer that has not stepped yet makes it step. The weights
#   stay (the step has learning rate 0) but the step count stays at 1 and the moments exist, so the first real AdamW
#   step is counted as the second and is 26 % smaller. Training with a checkpoint at step 0 is another training.
# Versions: torch 2.13.0.
# Where: _init_optim_state in torch/distributed/checkpoint/state_dict.py fills gradients with zeros and calls step.
# Who meets it: a loop that writes a checkpoint before the first step, or builds the template for
#   torch.distributed.checkpoint.load. The first steps are the ones whose size the warm-up is there to limit.
# Guess that was wrong: a getter changes nothing; the state is empty before and after.
# Instead: ask only after the first step, or read optimizer.state yourself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict


def first_update(asked):
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.0)
    if asked:
        get_optimizer_state_dict(network, optimizer)
    count = [float(state["step"]) for state in optimizer.state.values()]
    before = network.weight.detach().clone()
    network(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return count, (network.weight - before).abs().mean().item()


plain = first_update(asked=False)
asked = first_update(asked=True)
print(f"torch {torch.__version__}")
print("guess: no state before the first step, and the same first step of 1e-3")
print(f"seen:  step counts {plain[0]} and {asked[0]}, first steps {plain[1]:.3e} and {asked[1]:.3e}")
if asked[0] != [1.0, 1.0] or not 0.73 < asked[1] / plain[1] < 0.76:
    raise SystemExit("the behaviour has changed")
PYTHON
