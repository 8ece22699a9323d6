#!/usr/bin/env bash
# What happens: a LoRA is trained with `modules_to_save=["conv_out"]`, or with `bias="lora_only"`. diffusers'
#   `disable_adapters` switches the LoRA off and leaves the trained conv_out and biases on. PEFT's own
#   `disable_adapter` switches conv_out off, but `unload`, which is to give the base back, leaves the trained one in it.
# Versions: diffusers 0.42.1, peft 0.21.2, torch 2.13.0.
# Where: `disable_adapters` in diffusers/loaders/peft.py asks for BaseTunerLayer, which a ModulesToSaveWrapper is not;
#   `ModulesToSaveWrapper.unload_and_optionally_merge_module` in peft/utils/other.py returns the trained module whether
#   it merges or not.
# Who meets it: Diffusion-DPO takes the network with its adapters off as its reference. Such a reference moves with the
#   policy: whatever conv_out learns is in both, and no margin sees it.
# Guess that was wrong: both calls give the network as it was before training.
# Instead: PEFT's context `model.disable_adapter()` with modules_to_save and no trained biases, or a second network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
  transformers==5.23.0 peft==0.21.2
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import warnings

import diffusers
import peft
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model

GENERATOR = torch.Generator().manual_seed(5)
INPUT = (torch.randn(2, 4, 8, 8, generator=GENERATOR), torch.tensor([10, 700]),
         torch.randn(2, 7, 32, generator=GENERATOR))


def network():
    """Return a small UNet, the same at every call."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(32, 64), cross_attention_dim=32, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
    ).eval().requires_grad_(False)


@torch.no_grad()
def away(model):
    """Return how far a network's prediction is from the base's, as a share of it."""
    base = network()(*INPUT).sample
    return ((model(*INPUT).sample - base).norm() / base.norm()).item()


@torch.no_grad()
def train(model):
    """Move whatever is to be trained a little."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn_like(parameter))


SETTINGS = {
    "modules_to_save": {"target_modules": ["to_q"], "modules_to_save": ["conv_out"]},
    "biases": {"target_modules": ["to_out.0", "ff.net.2"], "bias": "lora_only"},
    "neither": {"target_modules": ["to_q"]},
}
rows = []
for name, settings in SETTINGS.items():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ours = network()
        ours.add_adapter(LoraConfig(r=4, **settings))
        train(ours)
        trained = away(ours)
        ours.disable_adapters()
        rows.append((name, "disable_adapters of diffusers", trained, away(ours), len(said)))
        wrapped = get_peft_model(network(), LoraConfig(r=4, **settings))
        train(wrapped)
        trained = away(wrapped)
        with wrapped.disable_adapter():
            rows.append((name, "disable_adapter of peft", trained, away(wrapped), len(said)))
        rows.append((name, "unload of peft", trained, away(wrapped.unload()), len(said)))
print(f"diffusers {diffusers.__version__}, peft {peft.__version__}; distance of the prediction to the base's")
print("guess: 0.0% after each of the calls")
for name, call, trained, after, _ in rows:
    print(f"seen:  {trained:5.1%} trained, {after:5.1%} after {call} ({name})")
seen = {(name, call.split()[0]): after for name, call, _, after, _ in rows}
if (min(seen["modules_to_save", "disable_adapters"], seen["modules_to_save", "unload"],
        seen["biases", "disable_adapters"]) < 0.01
        or max(seen["modules_to_save", "disable_adapter"], *(seen["neither", call] for call in
               ("disable_adapters", "disable_adapter", "unload"))) > 1e-6):
    raise SystemExit("the behaviour has changed")
PYTHON
