#!/usr/bin/env bash
# What happens: a LoRA is added to a network and the network quantised afterwards. torchao's quantize_ and quanto's
#   quantize with freeze turn lora_A and lora_B into 8 bits as well. With torchao no LoRA weight is trainable any more,
#   and nothing says so.
# Versions: torchao 0.18.0, optimum-quanto 0.2.7, peft 0.21.2, diffusers 0.42.1.
# Where: quantize_ in torchao/quantization/quant_api.py and quantize in optimum/quanto/quantize.py go through all linear
#   layers of the network, those that peft added among them.
# Who meets it: QLoRA-like runs that open a network, add the adapters and quantise the whole to save memory.
# Guess that was wrong: an adapter is left alone, as the names of its layers say what it is.
# Instead: quantise first and add the adapter then; or give quantize_ a filter_fn, and quantize exclude="*lora*".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
  transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 optimum-quanto==0.2.7 torchao==0.18.0
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { tail -n 5 log >&2; exit 1; }
from importlib.metadata import version

import peft
import torch
from diffusers import SD3Transformer2DModel
from optimum.quanto import freeze, qint8, quantize
from peft import LoraConfig
from torchao.quantization import Int8WeightOnlyConfig, quantize_


def policy():
    """Return a small network of SD3's kind with a LoRA, as for training."""
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=32,
        num_attention_heads=2, joint_attention_dim=64, caption_projection_dim=64, pooled_projection_dim=64,
    )
    network.requires_grad_(False)
    network.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"]))
    return network


def state(network):
    """Return the type of a LoRA's weight, and how many LoRA weights are trainable."""
    weight = network.transformer_blocks[0].attn.to_q.lora_A["default"].weight
    trained = [name for name, weight in network.named_parameters() if "lora_" in name and weight.requires_grad]
    return type(weight).__name__, len(trained)


before = state(policy())
by_torchao = policy()
quantize_(by_torchao, Int8WeightOnlyConfig())
by_quanto = policy()
quantize(by_quanto, weights=qint8)
freeze(by_quanto)
filtered = policy()
quantize_(
    filtered,
    Int8WeightOnlyConfig(),
    filter_fn=lambda layer, name: isinstance(layer, torch.nn.Linear) and "lora_" not in name,
)
excluded = policy()
quantize(excluded, weights=qint8, exclude="*lora*")
freeze(excluded)
print(f"torchao {version('torchao')}, optimum-quanto {version('optimum-quanto')}, peft {peft.__version__}")
print(f"guess: {before} before and after, with both")
print(f"seen:  torchao {state(by_torchao)}, with a filter {state(filtered)}")
print(f"       quanto {state(by_quanto)}, with exclude {state(excluded)}")
if state(by_torchao)[1] != 0 or state(by_quanto)[0] == before[0]:
    raise SystemExit("the behaviour has changed")
if state(filtered) != before or state(excluded) != before:
    raise SystemExit("the behaviour has changed")
PYTHON
