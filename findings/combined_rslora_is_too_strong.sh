#!/usr/bin/env bash
# What happens: `add_weighted_adapter(["style"], [1.0], "both", combination_type="cat")` of a rank-stabilised LoRA of
#   rank 16 gives an adapter that is 4 times as strong, with "svd" and "linear" too. The old adapter's scale is
#   multiplied into the new matrices, and then the new adapter is scaled by the root of its own rank.
# Versions: peft 0.21.2, diffusers 0.42.1, torch 2.13.0.
# Where: `LoraModel.add_weighted_adapter` in peft/tuners/lora/model.py gives the new adapter lora_alpha = r, for a
#   scale of 1, and keeps `use_rslora`, which makes it r / sqrt(r).
# Who meets it: two preference LoRAs are averaged or joined into one file, for example of two runs or two judges. It
#   looks like a LoRA that was trained too long.
# Guess that was wrong: one adapter with weight 1 gives that adapter again.
# Instead: set `use_rslora` of the first adapter's settings to False before the call (its layers keep their scale), or
#   divide the weights by sqrt(r) of the new adapter.
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
    ).eval()


@torch.no_grad()
def prediction(model):
    """Return the network's output as a vector."""
    return model(*INPUT).sample.flatten()


@torch.no_grad()
def update(model, adapter):
    """Return the change of the first layer's weight that an adapter makes."""
    layer = next(module for module in model.modules() if hasattr(module, "scaling"))
    return layer.get_delta_weight(adapter)


rows = []
for stabilised in (False, True):
    for kind in ("cat", "svd", "linear"):
        model = get_peft_model(network(), LoraConfig(
            r=16, lora_alpha=16, use_rslora=stabilised, target_modules=["to_q", "to_k"], init_lora_weights=False,
        ), "style")
        before = prediction(model)
        if stabilised and kind == "cat":
            model.peft_config["style"].use_rslora = False
            model.add_weighted_adapter(["style"], [1.0], "remedy", combination_type=kind)
            mended = (update(model, "remedy").norm() / update(model, "style").norm()).item()
            model.peft_config["style"].use_rslora = True
        model.add_weighted_adapter(["style"], [1.0], "both", combination_type=kind)
        ratio = (update(model, "both").norm() / update(model, "style").norm()).item()
        model.set_adapter("both")
        rows.append((stabilised, kind, ratio, ((prediction(model) - before).norm() / before.norm()).item()))
print(f"peft {peft.__version__}; one LoRA of rank 16, combined with weight 1")
print("guess: the new adapter's update is 1.00 times the old one's")
for stabilised, kind, ratio, distance in rows:
    print(f"seen:  {ratio:.2f} times, {kind}, {'rank-stabilised' if stabilised else 'plain'}; "
          f"the prediction moves by {distance:.1%}")
print(f"       {mended:.2f} times, cat, rank-stabilised, with use_rslora set to False before")
if any(abs(ratio - (4 if stabilised else 1)) > 0.01 for stabilised, _, ratio, _ in rows) or abs(mended - 1) > 0.01:
    raise SystemExit("the behaviour has changed")
PYTHON
