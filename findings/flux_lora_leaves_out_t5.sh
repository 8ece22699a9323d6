#!/usr/bin/env bash
# What happens: a LoRA for FLUX in kohya's names may have layers for T5 ("lora_te3_…"). diffusers converts the
#   file, leaves these layers out, and says nothing: no error, no warning, no line in its log at any level. The file
#   counts as loaded, and images are drawn with a part of the adapters. Layers of CLIP's text_projection go the same way,
#   with a line at level INFO, which nobody sees by default.
# Versions: diffusers 0.42.1.
# Where: _convert_kohya_flux_lora_to_diffusers in diffusers/loaders/lora_conversion_utils.py keeps the tensors whose names
#   begin with lora_unet_, lora_te_ or lora_te1_, and drops all others before it counts what is left over.
# Who meets it: whoever draws with, or trains on top of, a LoRA of sd-scripts that was trained with --train_t5xxl.
# Guess that was wrong: what the pipeline has no loader for is refused, as unknown layers of Qwen-Image's files are.
# Instead: compare the tensors of the file with those of the converted state dict before load_lora_weights.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging

import diffusers
import torch
from diffusers.loaders import FluxLoraLoaderMixin as Flux
from diffusers.loaders import QwenImageLoraLoaderMixin as Qwen


def layer(name):
    return {f"{name}.lora_down.weight": torch.ones(2, 8), f"{name}.lora_up.weight": torch.ones(8, 2)}


said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logger = logging.getLogger("diffusers")
logger.addHandler(handler)
diffusers.utils.logging.set_verbosity_debug()

network = layer("lora_unet_double_blocks_0_img_attn_proj")
text = layer("lora_te3_encoder_block_0_layer_0_SelfAttention_q")
state = Flux.lora_state_dict({**network, **text})
state = state[0] if isinstance(state, tuple) else state
try:
    Qwen.lora_state_dict({**layer("lora_unet_transformer_blocks_0_attn_to_q"), "elsewhere.weight": torch.ones(2)})
    refuses = False
except ValueError:
    refuses = True

print(f"diffusers {diffusers.__version__}; a file with 2 tensors of the network and 2 of T5")
print("guess: an error, a warning, or 4 tensors")
print(f"seen:  {len(state)} tensors, {sorted(state)}, and in the log {said}")
print(f"Qwen-Image's converter refuses a tensor that it does not know: {refuses}")
if len(state) != 2 or any("text" in name for name in state) or said or not refuses:
    raise SystemExit("the behaviour has changed")
PYTHON
