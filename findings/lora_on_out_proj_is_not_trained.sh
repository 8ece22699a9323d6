#!/usr/bin/env bash
# What happens: a LoRA on out_proj of torch's MultiheadAttention gets no gradient and has no effect, without a word. Its
#   weights count as trainable and are saved. If they are not zero, merging gives them an effect for the first time.
# Versions: peft 0.21.2, torch 2.13.0.
# Where: MultiheadAttention in torch/nn/modules/activation.py passes out_proj.weight to a function and never calls
#   out_proj. A comment in peft/tuners/lora/layer.py says so; no warning does.
# Who meets it: whoever fine-tunes a CLIP of open_clip on preferences, as HPSv2 is: its attention is this class.
#   transformers' CLIP has a layer of its own named out_proj.
# Guess that was wrong: a layer that can be named as a target is adapted.
# Instead: name the attention itself (target_modules=["attn"]), which adapts in_proj and out_proj, and look for parameters
#   without a gradient after the first step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 \
  peft==0.21.2
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import warnings

import peft
import torch
from peft import LoraConfig


class Block(torch.nn.Module):
    """Attention and a projection, named as in open_clip's blocks."""

    def __init__(self):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        self.c_proj = torch.nn.Linear(16, 16)

    def forward(self, sample):
        return self.c_proj(self.attn(sample, sample, sample, need_weights=False)[0])


def trained(targets):
    """Return how many LoRA weights a backward pass reaches, all of them, and the number of warnings."""
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        policy = peft.get_peft_model(Block(), LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    policy(torch.randn(2, 5, 16)).sum().backward()
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    return sum(weight.grad is not None for weight in weights), len(weights), len(told)


@torch.no_grad()
def effects():
    """Return what a LoRA on out_proj moves before and after it is merged."""
    torch.manual_seed(0)
    block, sample = Block().eval(), torch.randn(2, 5, 16)
    base = block(sample)
    policy = peft.get_peft_model(block, LoraConfig(r=4, target_modules=["out_proj"], init_lora_weights=False)).eval()
    before = policy(sample)
    policy.merge_adapter()
    return [((prediction - base).norm() / base.norm()).item() for prediction in (before, policy(sample))]


both, whole = trained(["out_proj", "c_proj"]), trained(["attn"])
before, merged = effects()
print(f"peft {peft.__version__}, torch {torch.__version__}; weights with a gradient, all trained ones, and warnings")
print("guess: all of them, or a warning")
print(f"seen:  out_proj and c_proj {both}, attn {whole}")
print(f"       effect of out_proj's LoRA {before:.0%}, and {merged:.0%} after merging")
if both != (2, 4, 0) or whole[0] != whole[1] or before > 1e-5 or merged < 0.1:
    raise SystemExit("the behaviour has changed")
PYTHON
