#!/usr/bin/env bash
# What happens: a DoRA adapter at weight 0 (`set_adapters` with 0, or a call with scale 0) still changes the
#   prediction. Its weight scales the product of A and B only; the learned magnitudes of the rows stay whole.
# Versions: peft 0.21.2, diffusers 0.42.1.
# Where: `DoraLinearLayer.forward` in peft/tuners/lora/dora.py: magnitude / norm(W + scale * B A), times W + scale * B
#   A.
# Who meets it: whoever takes weight 0 for the reference of preference training, or for the base in a comparison of
#   images, and whoever sets a DoRA to 0.5 to halve what it does.
# Guess that was wrong: at weight 0 an adapter does nothing, as LoRA does.
# Instead: `disable_adapters`, which leaves the base to the bit.
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
sample, text, target = torch.randn(4, 4, 8, 8), torch.randn(4, 5, 16), torch.randn(4, 4, 8, 8)


def network():
    """Return a small UNet, the same at every call."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(32, 64), cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
    ).eval()


@torch.no_grad()
def predict(unet):
    """Return what it predicts."""
    return unet(sample, 500, text).sample


def left(use_dora):
    """Train an adapter for 60 steps; return what is left of its effect at weights 0.5 and 0, and disabled."""
    unet = network()
    base = predict(unet)
    torch.manual_seed(1)
    unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v"], use_dora=use_dora), "style")
    optimizer = torch.optim.AdamW([weight for weight in unet.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(60):
        (unet(sample, 500, text).sample - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    whole = (predict(unet) - base).norm()
    found = []
    for weight in (0.5, 0.0):
        unet.set_adapters(["style"], [weight])
        found.append(((predict(unet) - base).norm() / whole).item())
    unet.disable_adapters()
    return [*found, ((predict(unet) - base).norm() / whole).item()]


lora, dora = left(use_dora=False), left(use_dora=True)
print(f"peft {peft.__version__}, diffusers {diffusers.__version__}; share of the trained effect")
print(f"LoRA:        {lora[0]:.2f} at weight 0.5, {lora[1]:.2f} at weight 0, {lora[2]:.2f} disabled")
print("guess, DoRA: about the same, and 0.00 at weight 0")
print(f"seen,  DoRA: {dora[0]:.2f} at weight 0.5, {dora[1]:.2f} at weight 0, {dora[2]:.2f} disabled")
if lora[1] > 1e-6 or dora[1] < 0.1 or dora[2] > 1e-6:
    raise SystemExit("the behaviour has changed")
PYTHON
