#!/usr/bin/env bash
# What happens: after pipe.disable_lora() a newly loaded LoRA is off, too. get_active_adapters names it as active; the
#   images are the base's, to the bit.
# Versions: diffusers 0.42.1, peft 0.21.2.
# Where: PeftAdapterMixin.disable_lora in diffusers/loaders/peft.py sets a switch in each existing layer, which the next
#   adapter joins; load_lora_adapter activates the adapter and leaves the switch.
# Who meets it: comparing base and policy in one pipeline: draw the base with disable_lora, load the next checkpoint,
#   draw again. Every later checkpoint then ties with the base.
# Guess that was wrong: loading an adapter turns adapters on, as get_active_adapters says.
# Instead: pipe.enable_lora() after loading, or unload_lora_weights() for the base.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 peft==0.21.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import tempfile

import diffusers
import peft
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict


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


files = []
for _ in range(2):
    trained = tiny()
    trained.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    folder = tempfile.mkdtemp()
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(trained))
    files.append(folder)

parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
pipe = StableDiffusionPipeline(unet=tiny(), scheduler=DDIMScheduler(), requires_safety_checker=False, **parts)
inputs = (torch.randn(1, 4, 8, 8), 5, torch.randn(1, 3, 16))


def difference():
    return (pipe.unet(*inputs).sample - base).abs().max().item()


base = pipe.unet(*inputs).sample.detach()
pipe.load_lora_weights(files[0], adapter_name="step100")
first = difference()
pipe.disable_lora()
pipe.load_lora_weights(files[1], adapter_name="step200")
active = pipe.get_active_adapters()
second = difference()
pipe.enable_lora()
third = difference()

print(f"diffusers {diffusers.__version__}, peft {peft.__version__}; difference from the base")
print(f"step100 loaded: {first:.4f}; disabled, then step200 loaded, active adapters: {active}")
print("guess: step200 changes the prediction")
print(f"seen:  {second:.4f}; after enable_lora: {third:.4f}")
if second != 0.0 or third == 0.0 or active != ["step200"]:
    raise SystemExit("the behaviour has changed")
PYTHON
