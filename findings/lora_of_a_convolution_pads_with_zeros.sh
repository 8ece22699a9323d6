#!/usr/bin/env bash
# What happens: a convolution with padding_mode="circular" gets a LoRA. The LoRA pads with zeros, so the seam that circular
#   padding hides comes back at the borders. Merged into the weight, the same LoRA pads in a circle: the prediction at the
#   borders changes by merging. "reflect" and "replicate" are the same. Inside the image both agree.
# Versions: peft 0.21.2, torch 2.13.0.
# Where: update_layer of _ConvNd in peft/tuners/lora/layer.py makes lora_A of the base's kernel, stride and padding, and
#   not of its padding mode.
# Who meets it: LoCon-like adapters on networks that were made to draw tiles or panoramas, which is done by setting
#   padding_mode of every convolution. Validation in training then sees other images than the merged result draws.
# Guess that was wrong: a LoRA's convolution pads as its base does, and merging changes rounding alone.
# Instead: set padding_mode after the adapters were added or loaded, of every convolution, lora_A included, or merge first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 \
  peft==0.21.2
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import copy

import peft
import torch
from peft import LoraConfig


class Block(torch.nn.Module):
    """A convolution, as in a UNet."""

    def __init__(self, mode):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(4, 8, 3, padding=1, padding_mode=mode)

    def forward(self, sample):
        return self.conv1(sample)


@torch.no_grad()
def moved(mode, mend=False):
    """Return how far merging moves the whole prediction, and at most its inside."""
    torch.manual_seed(0)
    sample = torch.randn(2, 4, 8, 8)
    policy = peft.get_peft_model(Block(mode), LoraConfig(r=4, target_modules=["conv1"], init_lora_weights=False)).eval()
    for name, layer in policy.named_modules():
        if mend and "lora_A." in name:
            layer.padding_mode = mode
    before = policy(sample)
    merged = copy.deepcopy(policy)
    merged.merge_adapter()
    apart = (merged(sample) - before).abs()
    return (apart.norm() / before.norm()).item(), apart[..., 1:-1, 1:-1].max().item()


modes = {mode: moved(mode) for mode in ("zeros", "circular", "reflect", "replicate")}
mended, _ = moved("circular", mend=True)
print(f"peft {peft.__version__}, torch {torch.__version__}; a LoRA on a convolution, merged against not merged")
print("guess: equal, for every padding mode")
print("seen:  " + ", ".join(f"{mode} {share:.0%} apart" for mode, (share, _) in modes.items()))
inside = max(inside for _, inside in modes.values())
print(f"       inside the image at most {inside:.0e}; circular with lora_A set too {mended:.0%}")
if modes["zeros"][0] > 1e-5 or min(modes[mode][0] for mode in ("circular", "reflect", "replicate")) < 0.1:
    raise SystemExit("the behaviour has changed")
if inside > 1e-5 or mended > 1e-5:
    raise SystemExit("the behaviour has changed")
PYTHON
