#!/usr/bin/env bash
# What happens: a LoRA of rank 4 with lora_alpha=16, saved by diffusers, is loaded twice. From its file it has its own
#   strength, alpha/rank = 4. Read first with safetensors and given as a dict of the same tensors, it has strength 1,
#   without a word.
# Versions: diffusers 0.42.1, peft 0.21.2.
# Where: _fetch_state_dict in diffusers/loaders/lora_base.py reads the file's metadata, where alpha is. A dict has none,
#   and alpha then counts as equal to the rank. save_lora_weights and save_lora_adapter write alpha nowhere else.
# Who meets it: code that reads LoRA files itself, to average two checkpoints, to rename layers or to look inside, and
#   hands the tensors on. It compares a weaker policy with its base.
# Guess that was wrong: the tensors of a file do what the file does.
# Instead: pass the file's path, or the metadata too: load_lora_adapter(tensors, metadata=...) with the dict that
#   json.loads gives of safe_open(...).metadata()["lora_adapter_metadata"].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
  transformers==5.23.0 peft==0.21.2
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import json

import diffusers
import peft
import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file


def network():
    """Return a small network of SD3's kind, the same at every call."""
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16,
    ).eval()


torch.manual_seed(1)
inputs = {
    "hidden_states": torch.randn(1, 4, 8, 8), "encoder_hidden_states": torch.randn(1, 5, 16),
    "pooled_projections": torch.randn(1, 16), "timestep": torch.tensor([500.0]),
}


@torch.no_grad()
def predict(transformer):
    """Return what it predicts."""
    return transformer(**inputs).sample


base = predict(network())

policy = network()
policy.add_adapter(LoraConfig(r=4, lora_alpha=16, target_modules=["to_q", "to_v"], init_lora_weights=False))
policy.save_lora_adapter("lora")
path = "lora/pytorch_lora_weights.safetensors"
with safe_open(path, "pt") as file:
    metadata = json.loads(file.metadata()["lora_adapter_metadata"])


def scales(lora, **settings):
    """Return the strengths of the layers of a network that loaded a LoRA, and how far it is from the policy."""
    other = network()
    other.load_lora_adapter(lora, prefix=None, adapter_name="a", **settings)
    layers = [layer for layer in other.modules() if isinstance(layer, peft.tuners.lora.Linear)]
    off = (predict(other) - predict(policy)).norm() / (predict(policy) - base).norm()
    return sorted({layer.scaling["a"] for layer in layers}), off.item()


by_path = scales("lora", weight_name="pytorch_lora_weights.safetensors")
by_hand = scales(load_file(path))
with_metadata = scales(load_file(path), metadata=metadata)
print(f"diffusers {diffusers.__version__}, peft {peft.__version__}; a LoRA of rank 4 with alpha 16")
print("guess: scale 4.0 from the file and from its tensors")
print(f"seen:  scale {by_path[0]} from the file, {by_hand[0]} from its tensors: {by_hand[1]:.0%} of the LoRA's effect is missing or another")
print(f"       {with_metadata[0]} from its tensors with metadata=")
if by_path[0] != [4.0] or by_hand[0] != [1.0] or with_metadata[0] != [4.0] or by_hand[1] < 0.3 or by_path[1] > 1e-6:
    raise SystemExit("the behaviour has changed")
PYTHON
