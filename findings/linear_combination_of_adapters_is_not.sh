#!/usr/bin/env bash
# What happens: `add_weighted_adapter(["a", "b"], [0.5, 0.5], combination_type="linear")` does not give half of each
#   adapter's change of the weights. It adds the As and the Bs, each by the root of its weight, and multiplies the
#   sums: half of each, plus half of A of the one times B of the other, both ways. For two independent adapters this
#   foreign part is as large as the wanted one.
# Versions: peft 0.21.2, diffusers 0.42.1.
# Where: `_generalized_task_arithmetic_weighted_adapter` in peft/tuners/lora/model.py.
# Who meets it: averages of preference LoRAs of several seeds, checkpoints or labelers ("soup"), and style plus
#   policy.
# Guess that was wrong: linear means the weighted sum of what the adapters do.
# Instead: "cat", which is exact at the rank of the sum; or `set_adapters(["a", "b"], [0.5, 0.5])`, which adds what
#   both do.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 \
  transformers==5.23.0 peft==0.21.2
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import peft
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, get_peft_model

torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8, layers_per_block=1, block_out_channels=(32, 64), cross_attention_dim=16, attention_head_dim=4,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    norm_num_groups=8,
)
config = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
model = get_peft_model(unet, config, "a")
model.add_adapter("b", config)
for kind in ("linear", "cat"):
    model.add_weighted_adapter(["a", "b"], [0.5, 0.5], kind, combination_type=kind)


def changes(name):
    """Return an adapter's change of all weights, in one vector."""
    layers = [layer for layer in model.modules() if hasattr(layer, "lora_A")]
    return torch.cat([layer.get_delta_weight(name).flatten() for layer in layers])


mean = (changes("a") + changes("b")) / 2
off = {kind: ((changes(kind) - mean).norm() / mean.norm()).item() for kind in ("linear", "cat")}
print(f"peft {peft.__version__}; distance to the mean of two adapters' changes, of that mean")
print("guess: 0.00 linear, 0.00 cat")
print("seen:  " + ", ".join(f"{share:.2f} {kind}" for kind, share in off.items()))
if off["linear"] < 0.8 or off["cat"] > 1e-5:
    raise SystemExit("the behaviour has changed")
PYTHON
