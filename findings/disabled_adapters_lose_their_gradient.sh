#!/usr/bin/env bash
# What happens: the policy's pass, then `disable_adapters()` for the reference's pass, then `backward()`: no LoRA
#   weight gets a gradient, and nothing is raised. The graph is whole, but disabling also takes `requires_grad` from
#   the weights, and torch then drops what arrives at them. Enabling gives it back to every active adapter, also to
#   one that was frozen by hand.
# Versions: peft 0.21.2, diffusers 0.42.1, torch 2.13.0.
# Where: `BaseTunerLayer.enable_adapters` in peft/tuners/tuners_utils.py calls `requires_grad_` on all adapters'
#   layers.
# Who meets it: Diffusion-DPO with a LoRA takes the network with adapters off as its reference. A step that turns them
#   on only at its start trains nothing: the loss stays at ln 2. A fine-tuned first LoRA that was frozen under the DPO
#   one is trained along from the first step on.
# Guess that was wrong: disabling changes what later passes compute, and nothing else; what was frozen stays so.
# Instead: enable before `backward`, and hand the optimizer the new adapter's weights only.
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


def adapter(seed):
    """Return the settings of an adapter that matters."""
    torch.manual_seed(seed)
    return LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)


def weights(unet, name):
    """Return an adapter's weights."""
    return [weight for key, weight in unet.named_parameters() if f".{name}.weight" in key]


def with_gradient(enable_first):
    """Return how many weights get a gradient from a step, and how many there are."""
    unet = network()
    unet.add_adapter(adapter(1), "dpo")
    policy = unet(sample, 500, text).sample
    unet.disable_adapters()
    with torch.no_grad():
        reference = unet(sample, 500, text).sample
    if enable_first:
        unet.enable_adapters()
    (policy - reference).square().mean().backward()
    return sum(weight.grad is not None for weight in weights(unet, "dpo")), len(weights(unet, "dpo"))


off, count = with_gradient(enable_first=False)
on, _ = with_gradient(enable_first=True)
unet = network()
unet.add_adapter(adapter(1), "sft")
unet.add_adapter(adapter(2), "dpo")
unet.set_adapters(["sft", "dpo"])
for weight in weights(unet, "sft"):
    weight.requires_grad_(False)
unet.disable_adapters()
unet.enable_adapters()
thawed = sum(weight.requires_grad for weight in weights(unet, "sft"))
print(f"peft {peft.__version__}, diffusers {diffusers.__version__}; {count} LoRA weights")
print(f"guess: {count} get a gradient with the adapters off or on; of the {count} that were frozen 0 are trainable")
print(f"seen:  {off} get a gradient with the adapters off, {on} with them on; of the frozen {thawed} are trainable")
if off != 0 or on != count or thawed != count:
    raise SystemExit("the behaviour has changed")
PYTHON
