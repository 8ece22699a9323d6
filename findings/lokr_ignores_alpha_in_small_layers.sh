#!/usr/bin/env bash
# What happens: in a LyCORIS LoKr only layers wide enough for a low rank get the scale alpha/dim. Where the dim reaches
#   half of the second factor's smaller side, LoKr takes a full matrix and sets alpha to dim, scale 1. One network, one
#   alpha, two scales. A warning names the full matrix and says nothing of alpha.
# Versions: lycoris-lora 4.1.3.
# Where: LokrModule.__init__ in lycoris/modules/lokr.py ("use scale = 1").
# Who meets it: whoever sets alpha or compares learning rates with LoRA. An SD1.5 UNet mixes widths 320 to 1280, and
#   raising dim from 8 to 16 makes some layers learn twice as fast.
# Guess that was wrong: every layer has the scale alpha/dim that was asked for.
# Instead: alpha = dim, so that both kinds have scale 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 lycoris-lora==4.1.3 einops==0.8.2 toml==0.10.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import logging

import torch
from lycoris import create_lycoris

logging.disable(logging.CRITICAL)
widths = (320, 640, 1280)
model = torch.nn.ModuleDict({f"width{width}": torch.nn.Linear(width, width, bias=False) for width in widths})
scales = {}
for dim in (8, 16):
    adapter = create_lycoris(model, 1.0, linear_dim=dim, linear_alpha=dim / 2, algo="lokr")
    scales[dim] = {module.lora_name.split("_")[-1]: float(module.scale) for module in adapter.loras}

print({package: importlib.metadata.version(package) for package in ("lycoris-lora", "torch")})
print("guess: alpha = dim / 2 makes the scale 0.5 everywhere")
print(f"seen:  {scales}")
values = {scale for by_layer in scales.values() for scale in by_layer.values()}
if values != {0.5, 1.0}:
    raise SystemExit("the behaviour has changed")
PYTHON
