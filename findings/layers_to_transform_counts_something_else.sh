#!/usr/bin/env bash
# What happens: `LoraConfig(layers_to_transform=[0])` on a network of diffusers does not mean block 0. On a UNet it
#   means the attention 0 of every block, down to up. On FLUX the names begin with the block's number, which is not
#   read. The first number that is read is the 0 in `ff.net.0.proj`: [0] adapts this layer of all blocks and no
#   attention, and [5] adapts nothing.
# Versions: peft 0.21.2, diffusers 0.42.1.
# Where: `check_target_module_exists` in peft/tuners/tuners_utils.py looks for a number after two names. Names of
#   diffusers' blocks start at the network, without the prefix "model." of language models.
# Who meets it: LoRA on some blocks only, to save memory, or as ablations of preference training show that some blocks
#   suffice. Such a run trains other layers than it reports, and only FLUX's [5] raises an error.
# Guess that was wrong: the first number in a layer's name is the block.
# Instead: `layers_pattern="transformer_blocks"` with it for FLUX, or a regular expression as `target_modules`.
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
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from peft import LoraConfig


def unet():
    """Return a small UNet: two blocks down, two up, each with attentions."""
    return UNet2DConditionModel(
        sample_size=8, layers_per_block=2, block_out_channels=(32, 64), cross_attention_dim=16, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2, norm_num_groups=8,
    )


def flux():
    """Return a small FLUX of six blocks."""
    return FluxTransformer2DModel(
        in_channels=4, num_layers=6, num_single_layers=2, attention_head_dim=8, num_attention_heads=1,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
    )


def adapted(network, targets, **settings):
    """Return the names of the layers that get a LoRA for layer 0."""
    network.add_adapter(LoraConfig(r=2, target_modules=targets, layers_to_transform=[0], **settings))
    return [name for name, layer in network.named_modules() if isinstance(layer, peft.tuners.lora.Linear)]


queries = adapted(unet(), ["attn1.to_q"])
layers = adapted(flux(), ["to_q", "ff.net.0.proj"])
meant = adapted(flux(), ["to_q", "ff.net.0.proj"], layers_pattern="transformer_blocks")
print(f"peft {peft.__version__}, diffusers {diffusers.__version__}; layers_to_transform=[0]")
print("guess: UNet: attn1.to_q of down_blocks.0; FLUX: to_q and ff.net.0.proj of transformer_blocks.0")
print("seen:  UNet: " + ", ".join(name.split(".transformer")[0] for name in queries))
print("       FLUX: " + ", ".join(layers))
print("       FLUX with layers_pattern: " + ", ".join(meant))
places = {name.split(".transformer")[0] for name in queries}
blocks = ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1")
wanted = {f"{block}.attentions.0" for block in blocks}
if places != wanted or layers != [f"transformer_blocks.{block}.ff.net.0.proj" for block in range(6)]:
    raise SystemExit("the behaviour has changed")
if meant != ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.ff.net.0.proj"]:
    raise SystemExit("the behaviour has changed")
PYTHON
