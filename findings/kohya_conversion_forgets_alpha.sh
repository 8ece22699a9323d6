#!/usr/bin/env bash
# What happens: `convert_state_dict_to_kohya` writes an alpha for every layer, and it is always the rank: scale 1,
#   whatever alpha the adapter was trained with. A LoRA of rank 16 and alpha 4 comes out four times as strong.
# Versions: diffusers 0.42.1, peft 0.21.2.
# Where: diffusers/utils/state_dict_utils.py: the state dict has no alpha, and the function takes no config.
# Who meets it: results for ComfyUI and Forge. The usual training scripts of diffusers take alpha = rank, so the
#   conversion looks right until somebody chooses another, or rank-stabilised scaling.
# Guess that was wrong: a file that has alphas has the right ones.
# Instead: multiply each `alpha` by lora_alpha / r (by lora_alpha / sqrt(r) for rsLoRA) before writing the file.
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
import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model_state_dict


def network():
    """Return a small UNet, the same at every call."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(32, 64), cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
    ).eval()


rows = []
for alpha in (16, 4):
    torch.manual_seed(1)
    trained = network()
    trained.add_adapter(LoraConfig(r=16, lora_alpha=alpha, target_modules=["to_q", "to_k"], init_lora_weights=False))
    tensors = {f"unet.{name}": tensor for name, tensor in get_peft_model_state_dict(trained).items()}
    converted = convert_state_dict_to_kohya(tensors)
    scale = trained.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.scaling["default"]
    alphas = {tensor.item() for name, tensor in converted.items() if name.endswith(".alpha")}
    rows.append((alpha, scale, {value / 16 for value in alphas}))
print(f"diffusers {diffusers.__version__}, peft {peft.__version__}; rank 16")
print("guess: " + "; ".join(f"alpha {alpha}: scale {scale} in the file" for alpha, scale, _ in rows))
print("seen:  " + "; ".join(f"alpha {alpha}: scale {sorted(found)} in the file" for alpha, _, found in rows))
if [found for _, _, found in rows] != [{1.0}, {1.0}] or rows[1][1] != 0.25:
    raise SystemExit("the behaviour has changed")
PYTHON
