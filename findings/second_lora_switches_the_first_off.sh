#!/usr/bin/env bash
# What happens: a second load_lora_weights on a pipeline switches the first LoRA off. The image is that of the second
#   alone, to the bit. The first one stays in memory and in the list of adapters.
# Versions: diffusers 0.42.1, peft 0.21.2, torch 2.13.0, transformers 5.23.0.
# Where: PeftAdapterMixin.load_lora_adapter in diffusers/loaders/peft.py injects each file as an adapter of a new name
#   (default_0, default_1), and peft's injection makes the new one the active one.
# Who meets it: who puts a preference LoRA (DPO) and one of style or of few steps on one model.
# Guess that was wrong: the two add up, as they do in A1111 and ComfyUI.
# Instead: pipeline.set_adapters(["default_0", "default_1"]) after the last file, or names of your own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
    peft==0.21.2 transformers==5.23.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import diffusers
import peft
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

warnings.simplefilter("ignore")
diffusers.logging.set_verbosity_error()
ABSENT = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))


def pipeline():
    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(**ABSENT, transformer=network.eval())


def save_lora(seed, name):
    torch.manual_seed(seed)
    layer = "transformer_blocks.0.attn.to_q"
    tensors = {f"{layer}.lora_A.weight": torch.randn(4, 32), f"{layer}.lora_B.weight": torch.randn(32, 4)}
    FluxPipeline.save_lora_weights(name, transformer_lora_layers=tensors)


@torch.no_grad()
def prediction(names, together=False):
    one = pipeline()
    for name in names:
        one.load_lora_weights(name)
    if together:
        one.set_adapters(["default_0", "default_1"])
    torch.manual_seed(1)
    return one.transformer(
        hidden_states=torch.randn(1, 4, 4),
        encoder_hidden_states=torch.randn(1, 3, 32),
        pooled_projections=torch.randn(1, 32),
        timestep=torch.tensor([0.5]),
        img_ids=torch.zeros(4, 3),
        txt_ids=torch.zeros(3, 3),
    ).sample


save_lora(1, "first")
save_lora(2, "second")
both = prediction(["first", "second"])
is_second_alone = torch.equal(both, prediction(["second"]))
differs_from_sum = not torch.allclose(both, prediction(["first", "second"], together=True), atol=1e-4)
moves = not torch.allclose(prediction(["first"]), prediction([]), atol=1e-4)
print(f"torch {torch.__version__}, diffusers {diffusers.__version__}, peft {peft.__version__}")
print("guess: after both files the network has both LoRAs")
print(f"seen:  equal to the second alone: {is_second_alone}; differs from both together: {differs_from_sum}")
if not (is_second_alone and differs_from_sum and moves):
    raise SystemExit("the behaviour has changed")
PYTHON
