#!/usr/bin/env bash
# What happens: fuse_qkv_projections on a UNet that carries a LoRA turns the LoRA off: the fused layers
#   are built from the base's weights, and what the adapter adds to keys and values is gone. The prediction is the
#   base's. A LoRA added after fusing has no effect either, and its weights get no gradient. No warning, no error.
# Versions: diffusers 0.42.1, peft 0.21.2.
# Where: Attention.fuse_projections in diffusers/models/attention_processor.py reads to_q.weight, to_k.weight and
#   to_v.weight, which of a PEFT layer are the base's; FusedAttnProcessor2_0 never calls to_k and to_v.
# Who meets it: fusing is the usual advice for faster sampling. Drawing a policy's validation images so shows the base.
# Guess that was wrong: the adapter goes on acting, or fusing is refused.
# Instead: merge the adapter first (pipe.fuse_lora, then unload_lora_weights), then fuse the projections.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import peft
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig


def tiny():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
    ).eval()


inputs = (torch.randn(1, 4, 8, 8), 5, torch.randn(1, 3, 16))
base = tiny()(*inputs).sample
adapter = LoraConfig(r=4, target_modules=["to_k", "to_v"], init_lora_weights=False)


def difference(network):
    return (network(*inputs).sample - base).abs().max().item()


network = tiny()
network.add_adapter(adapter)
before = difference(network)
network.fuse_qkv_projections()
after = difference(network)
other = tiny()
other.fuse_qkv_projections()
other.add_adapter(adapter)
added = difference(other)

print(f"diffusers {diffusers.__version__}, peft {peft.__version__}; difference from the base's prediction")
print(f"with the LoRA: {before:.4f}")
print(f"guess: about {before:.4f} after fusing, or an error")
print(f"seen:  {after:.4f} after fusing; {added:.4f} for a LoRA added to a fused network")
if before == 0.0 or after > 1e-5 or added > 1e-5:
    raise SystemExit("the behaviour has changed")
PYTHON
