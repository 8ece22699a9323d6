#!/usr/bin/env bash
# What happens: a network is opened in 8 bits through quanto, and a LoRA added. fuse_lora raises nothing, and the
#   prediction is the base's afterwards: the LoRA is neither in the weights nor beside them. unfuse_lora brings it back.
# Versions: diffusers 0.42.1, peft 0.21.2, optimum-quanto 0.2.7, torchao 0.18.0.
# Where: merge of Linear in peft/tuners/lora/layer.py adds to base_layer.weight.data in place, which leaves quanto's
#   WeightQBytesTensor as it was. The layer counts as merged, so that its adapter is no longer added in forward. peft has
#   layers of its own for torchao and bitsandbytes, but none for quanto.
# Who meets it: evaluations that open FLUX or SD3 in int8 for memory and fuse the LoRA for speed: they judge the base.
# Guess that was wrong: fuse_lora merges, or raises, as it does for torchao's tensors.
# Instead: fuse before quantising, or leave the LoRA unfused.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
  transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 optimum-quanto==0.2.7 torchao==0.18.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
from importlib.metadata import version

import diffusers
import peft
import torch
from diffusers import QuantoConfig, SD3Transformer2DModel
from peft import LoraConfig
from torchao.quantization import Int8WeightOnlyConfig, quantize_

CONFIG = LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False)
torch.manual_seed(0)
SD3Transformer2DModel(
    sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=32,
    num_attention_heads=2, joint_attention_dim=64, caption_projection_dim=64, pooled_projection_dim=64,
).save_pretrained("base")
inputs = {
    "hidden_states": torch.randn(1, 4, 8, 8), "encoder_hidden_states": torch.randn(1, 5, 64),
    "pooled_projections": torch.randn(1, 64), "timestep": torch.tensor([500.0]),
}


@torch.no_grad()
def predict(network):
    """Return what it predicts."""
    return network(**inputs).sample


def effects(**settings):
    """Return the effect of a LoRA, and what is left of it fused and unfused."""
    network = SD3Transformer2DModel.from_pretrained("base", **settings).eval()
    base = predict(network)
    torch.manual_seed(1)
    network.add_adapter(CONFIG)
    effect = predict(network) - base
    network.fuse_lora()
    fused = predict(network) - base
    network.unfuse_lora()
    unfused = predict(network) - base
    shares = [(part.norm() / effect.norm()).item() for part in (fused, unfused)]
    return (effect.norm() / base.norm()).item(), *shares


def torchao_refuses():
    """Return whether fusing over torchao's tensors raises."""
    network = SD3Transformer2DModel.from_pretrained("base").eval()
    quantize_(network, Int8WeightOnlyConfig())
    network.add_adapter(CONFIG)
    try:
        network.fuse_lora()
    except Exception:
        return True
    return False


plain = effects()
quantised = effects(quantization_config=QuantoConfig("int8"))
refused = torchao_refuses()
print(f"diffusers {diffusers.__version__}, peft {peft.__version__}, optimum-quanto {version('optimum-quanto')}")
print("guess: a fused LoRA has the effect that it had, or fusing raises")
print(f"seen:  float32: effect {plain[0]:.1%} of the prediction; fused {plain[1]:.0%} of it, unfused {plain[2]:.0%}")
print(f"       quanto: effect {quantised[0]:.1%}; fused {quantised[1]:.0%} of it, unfused again {quantised[2]:.0%}")
print(f"       torchao's int8 raises: {refused}")
if not 0.99 < plain[1] < 1.01 or quantised[1] > 0.01 or not refused:
    raise SystemExit("the behaviour has changed")
PYTHON
