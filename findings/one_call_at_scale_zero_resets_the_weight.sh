#!/usr/bin/env bash
# What happens: a LoRA is set to 0.3 with `set_adapters`. One call with `cross_attention_kwargs={"scale": 0.0}` draws
#   without the LoRA, as asked. Every later call draws with the LoRA at 1.0, and no longer at 0.3. Other scales, 0.5
#   for example, leave the 0.3.
# Versions: diffusers 0.42.1, peft 0.21.2.
# Where: a call multiplies each layer's scale and divides afterwards. As it cannot divide by zero,
#   `unscale_lora_layers` in diffusers/utils/peft_utils.py then sets the scale to 1.
# Who meets it: a comparison that draws the base with scale 0 and the policy without it, from one pipeline. From the
#   second prompt on, the policy is three times as strong as it was set. The scale also changes for a LoRA whose
#   weight was found on a validation set, or for two LoRAs that were blended.
# Guess that was wrong: an argument of a call is over with the call.
# Instead: `disable_lora` and `enable_lora` for the base, or `set_adapters` anew after a call with scale 0.
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
from peft import LoraConfig

torch.manual_seed(0)
sample, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 16)


def network():
    """Return a small UNet, the same at every call."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(32, 64), cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
    ).eval()


@torch.no_grad()
def predict(unet, **settings):
    """Return what it predicts."""
    return unet(sample, 500, text, **settings).sample


base = predict(network())
unet = network()
unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False), "style")
whole = (predict(unet) - base).norm()


def strength(**settings):
    """Return how far the prediction is from the base's, of what the LoRA at 1 moves it."""
    return ((predict(unet, **settings) - base).norm() / whole).item()


unet.set_adapters(["style"], [0.3])
first = strength()
strength(cross_attention_kwargs={"scale": 0.5})
half = strength()
zero = strength(cross_attention_kwargs={"scale": 0.0})
after = strength()
print(f"diffusers {diffusers.__version__}, peft {peft.__version__}; how much of the LoRA's effect, with weight 0.3")
print(f"guess: {first:.2f}; {first:.2f} after a call at 0.5; {zero:.2f} in a call at 0; {first:.2f} after it")
print(f"seen:  {first:.2f}; {half:.2f} after a call at 0.5; {zero:.2f} in a call at 0; {after:.2f} after it")
if abs(half - first) > 0.001 or zero > 0.001 or abs(after - 1) > 0.001 or first > 0.6:
    raise SystemExit("the behaviour has changed")
PYTHON
