#!/usr/bin/env bash
# What happens: a LoRA file in kohya's names has an alpha for each layer, and a layer's scale is alpha / rank. Where the
#   alphas differ, diffusers gives all attention layers the commonest alpha. peft warns of an alpha_pattern
#   that matches nothing, and the file counts as loaded. LoCon files, whose convolutions have another rank and alpha
#   than their attention, are drawn with attention several times too weak or too strong.
# Versions: diffusers 0.42.1, peft 0.21.2.
# Where: _get_alpha_name in diffusers/loaders/lora_conversion_utils.py cuts a name at ".lora.", which the names of
#   attention layers ("attn1.processor.to_q_lora.down.weight") do not have. So get_peft_kwargs in
#   diffusers/utils/peft_utils.py makes an alpha_pattern with keys that match no layer.
# Who meets it: whoever draws with LoRA files of sites, or trains on top of one.
# Guess that was wrong: each layer has its own alpha / rank.
# Instead: multiply alpha / rank into each lora_up tensor and leave the alphas out, before load_lora_weights.
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
from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

network = UNet2DConditionModel(
    sample_size=8,
    block_out_channels=(32, 32),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=16,
    attention_head_dim=8,
)
block = "down_blocks.0.attentions.0.transformer_blocks.0"
layers = {f"{block}.attn1.to_q": 4.0, f"{block}.attn1.to_k": 4.0, f"{block}.attn1.to_v": 1.0, f"{block}.ff.net.2": 1.0}
file = {}
for name, alpha in {**layers, f"{block}.attn1.to_out.0": 4.0}.items():
    layer = network.get_submodule(name)
    key = "lora_unet_" + name.replace(".", "_")
    file[f"{key}.lora_down.weight"] = torch.ones(4, layer.in_features)
    file[f"{key}.lora_up.weight"] = torch.ones(layer.out_features, 4)
    file[f"{key}.alpha"] = torch.tensor(alpha)
state, alphas = Loader.lora_state_dict(file)
Loader.load_lora_into_unet(state, network_alphas=alphas, unet=network)

print(f"diffusers {diffusers.__version__}, peft {peft.__version__}; scale of each layer")
found = {}
for name, alpha in layers.items():
    (found[name],) = network.get_submodule(name).scaling.values()
    print(f"{name.removeprefix(block)}: guess {alpha / 4}, seen {found[name]}")
if found[f"{block}.attn1.to_v"] != 1.0 or found[f"{block}.ff.net.2"] != 0.25:
    raise SystemExit("the behaviour has changed")
PYTHON
