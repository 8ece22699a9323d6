#!/usr/bin/env bash
# What happens: `set_adapters("style", {"transformer_blocks.1": 0.0})` on FLUX is to switch a LoRA off in one block.
#   It switches it off wherever the name contains that text: in transformer_blocks.1 and 10 to 18, and, as
#   "single_transformer_blocks.1" contains it as well, in single blocks 1, 10 to 19 and so on. On FLUX.1's 19 and 38
#   blocks one entry reaches 21 blocks.
# Versions: diffusers 0.42.1, peft 0.21.2.
# Where: `get_module_weight` in diffusers/utils/peft_utils.py asks `layer_name in module_name`, and takes the first
#   entry that fits.
# Who meets it: anyone who weights a preference LoRA block by block, to find the blocks that matter or to spare the
#   style of others. Blocks 2 to 9 behave likewise (2, 20 to 29).
# Guess that was wrong: a block's name means that block.
# Instead: end each name with a dot, and give the single blocks first: "single_transformer_blocks.1." before
#   "transformer_blocks.1.".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
  transformers==5.23.0 peft==0.21.2
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import diffusers
import peft
from diffusers import FluxTransformer2DModel
from peft import LoraConfig

flux = FluxTransformer2DModel(
    in_channels=4, num_layers=19, num_single_layers=38, attention_head_dim=8, num_attention_heads=1,
    joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
)  # as many blocks as FLUX.1 has
flux.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "style")


def switched_off(weights):
    """Return the blocks whose LoRA has scale 0 under these weights."""
    flux.set_adapters(["style"], [weights])
    layers = [(name, layer) for name, layer in flux.named_modules() if hasattr(layer, "scaling")]
    return [".".join(name.split(".")[:2]) for name, layer in layers if layer.scaling["style"] == 0]


plain = switched_off({"transformer_blocks.1": 0.0})
dotted = switched_off({"single_transformer_blocks.1.": 1.0, "transformer_blocks.1.": 0.0})
single = [name for name in plain if name.startswith("single")]
print(f"diffusers {diffusers.__version__}, peft {peft.__version__}; blocks without LoRA under transformer_blocks.1: 0")
print("guess: 1, namely transformer_blocks.1")
print(f"seen:  {len(plain)}, namely {len(plain) - len(single)} double and {len(single)} single blocks")
print(f"       {', '.join(name for name in plain if name not in single)}")
print(f"       with a dot, and the single block before it: {dotted}")
if len(plain) != 21 or len(single) != 11 or dotted != ["transformer_blocks.1"]:
    raise SystemExit("the behaviour has changed")
PYTHON
