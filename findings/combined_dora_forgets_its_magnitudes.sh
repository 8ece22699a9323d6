#!/usr/bin/env bash
# What happens: `add_weighted_adapter` of DoRA adapters combines their directions and not their magnitudes. The
#   combined adapter is a DoRA with the base's magnitudes. Even a combination of one adapter, with weight 1, is another
#   one.
# Versions: peft 0.21.2, torch 2.13.0.
# Where: `add_weighted_adapter` in peft/tuners/lora/model.py fills lora_A and lora_B alone; the new layer's
#   `lora_magnitude_vector` is the norm of the base's weights.
# Who meets it: whoever averages adapters of several rewards or seeds, which for LoRA works. No warning.
# Guess that was wrong: the magnitudes are combined too, or DoRA is refused.
# Instead: merge each into a copy of the base, and average the weights.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 peft==0.21.2 \
  transformers==5.23.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import peft
import torch
from peft import LoraConfig, get_peft_model


@torch.no_grad()
def moved(dora, kind):
    """Return how far a combination of one adapter with weight 1 is from that adapter, of the adapter's own effect."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(16, 16))
    seen = torch.randn(8, 16)
    base = network(seen)
    model = get_peft_model(network, LoraConfig(r=2, target_modules=["0"], use_dora=dora), adapter_name="one")
    for name, weight in model.named_parameters():
        if "lora_B" in name or "magnitude" in name:
            weight.add_(0.3 * torch.randn_like(weight))
    own = model(seen)
    model.add_weighted_adapter(["one"], [1.0], "combined", combination_type=kind)
    model.set_adapter("combined")
    return ((model(seen) - own).norm() / (own - base).norm()).item()


print(f"peft {peft.__version__}; one adapter, combined with weight 1, against itself")
print("guess: LoRA 0, DoRA 0")
found = {kind: (moved(False, kind), moved(True, kind)) for kind in ("linear", "cat")}
for kind, (lora, dora) in found.items():
    print(f"seen:  {kind:6} LoRA {lora:.3f}, DoRA {dora:.3f} of its effect")
if any(lora > 1e-4 or dora < 0.1 for lora, dora in found.values()):
    raise SystemExit("the behaviour has changed")
PYTHON
