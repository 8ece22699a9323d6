#!/usr/bin/env bash
# What happens: LoraConfig(target_modules=["to_q", "to_k"], exclude_modules=["transformer_blocks.0"]) puts a LoRA on
#   block 0 as well, without a warning, whether or not another entry of the list excludes something.
# Versions: peft 0.21.2, diffusers 0.42.1.
# Where: check_target_module_exists in peft/tuners/tuners_utils.py compares an entry of the list with a layer's whole name
#   or with its end. A block's name is the beginning of its layers' names. modules_to_save, in the same function, is
#   compared anywhere in a name.
# Who meets it: preference training that leaves early or late blocks alone. The run adapts blocks that its settings name as
#   excluded.
# Guess that was wrong: what lies in an excluded module is excluded.
# Instead: a regular expression, as a text and not as a list: exclude_modules=r"transformer_blocks\.0\..*".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
  transformers==5.23.0 peft==0.21.2
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import warnings

import diffusers
import peft
import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig


def adapted(exclude):
    """Return the names of the layers that get a LoRA, and the warnings of peft."""
    network = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16,
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        network.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], exclude_modules=exclude))
    layers = [name for name, layer in network.named_modules() if isinstance(layer, peft.tuners.lora.Linear)]
    return layers, len([warning for warning in told if "exclude_modules" in str(warning.message)])


block, told = adapted(["transformer_blocks.0"])
both, told_both = adapted(["transformer_blocks.0", "to_k"])
expression, _ = adapted(r"transformer_blocks\.0\..*")
print(f"peft {peft.__version__}, diffusers {diffusers.__version__}; a network of two blocks")
print("guess: excluding block 0 leaves the two layers of block 1, and excluding to_k as well leaves one")
print(f"seen:  {len(block)} layers with {told} warnings: {block}")
print(f"       {len(both)} layers with {told_both} warnings: {both}")
print(f"       by a regular expression {expression}")
zero = "transformer_blocks.0.attn.to_q"
if len(block) != 4 or zero not in both or told or told_both or any("blocks.0" in name for name in expression):
    raise SystemExit("the behaviour has changed")
PYTHON
