#!/usr/bin/env bash
# What happens: rank_pattern={"to_q": 4, "transformer_blocks.0.attn.to_q": 8} gives both blocks rank 4. The same two
#   entries in the other order give block 0 rank 8. alpha_pattern behaves the same. diffusers sorts both when it
#   saves an adapter, which puts to_q first: a LoRA with an alpha of 8 for one layer comes back with an alpha of 4 there.
# Versions: peft 0.21.2, diffusers 0.42.1.
# Where: get_pattern_key in peft/utils/other.py takes the first entry that fits the end of a layer's name.
#   save_lora_adapter in diffusers/loaders/peft.py writes the settings as JSON with sort_keys=True.
# Who meets it: runs with more rank or alpha for some layers. They train fewer weights than their settings say; or they train
#   what the settings say, and the saved LoRA acts otherwise.
# Guess that was wrong: the more special entry wins, in any order.
# Instead: entries that cannot fit the same layer, such as transformer_blocks.1.attn.to_q beside that of block 0, and a
#   look at the layers' ranks and scales before training and after loading.
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
from diffusers import SD3Transformer2DModel
from peft import LoraConfig


def network():
    """Return a small network of SD3's kind, of two blocks."""
    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16,
    )


def layers(adapted):
    """Return rank and scale of the query's layer in block 0 and in block 1."""
    queries = [block.attn.to_q for block in adapted.transformer_blocks]
    return [(query.r["a"], query.scaling["a"]) for query in queries]


def added(**patterns):
    """Return a network with a LoRA of rank 2."""
    adapted = network()
    adapted.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"], **patterns), "a")
    return adapted


special = "transformer_blocks.0.attn.to_q"
general_first = layers(added(rank_pattern={"to_q": 4, special: 8}))
special_first = layers(added(rank_pattern={special: 8, "to_q": 4}))
trained = added(alpha_pattern={special: 8, "to_q": 4})
trained.save_lora_adapter("lora", adapter_name="a")
opened = network()
opened.load_lora_adapter("lora", weight_name="pytorch_lora_weights.safetensors", prefix=None, adapter_name="a")
print(f"peft {peft.__version__}, diffusers {diffusers.__version__}; rank and scale of block 0 and of block 1")
print("guess: ranks of 8 and 4 in any order, and the same scales after saving")
print(f"seen:  general rank first {general_first}, special rank first {special_first}")
print(f"       special alpha first {layers(trained)}, and after saving {layers(opened)}")
if [rank for rank, _ in general_first] != [4, 4] or [rank for rank, _ in special_first] != [8, 4]:
    raise SystemExit("the behaviour has changed")
if layers(trained) != [(2, 4.0), (2, 2.0)] or layers(opened) != [(2, 2.0), (2, 2.0)]:
    raise SystemExit("the behaviour has changed")
PYTHON
