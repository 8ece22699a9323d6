#!/usr/bin/env bash
# What happens: peft's FourierFT, C3A, VB-LoRA and Uni-LoRA with their default settings change the prediction before the
#   first step; FourierFT by 23 times the prediction itself here. LoRA, VeRA, OFT and HRA begin exactly at the base, or
#   within rounding. LoRA with init_lora_weights="orthogonal" begins there in float32, and 0.1 % off in bfloat16.
# Versions: peft 0.21.2, torch 2.13.0.
# Where: init_weights is False by default in peft/tuners/fourierft/config.py, and "xavier_uniform" in c3a/config.py.
#   VB-LoRA and Uni-LoRA draw their vectors at random, within bounds of 0.02, so as not to begin with gradients of zero.
#   `LoraLayer.orthogonal_init` in peft/tuners/lora/layer.py makes two matrices whose product is 0, and rounds both to the
#   base's dtype.
# Who meets it: preference training, which counts from a policy that equals the reference. With another start the
#   first margins are noise, and a comparison with LoRA is one of two starts as well.
# Guess that was wrong: all of peft's methods begin at the base by default.
# Instead: FourierFTConfig(init_weights=True) and C3AConfig(init_weights=True) begin at the base, and so does LoRA with
#   B = 0. For the other two make the reference from the network with its adapters at the start, or take another method.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 \
  peft==0.21.2
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import peft
import torch
from peft import C3AConfig, FourierFTConfig, HRAConfig, LoraConfig, OFTConfig, UniLoraConfig, VBLoRAConfig, VeraConfig


class Attention(torch.nn.Module):
    """Two layers, as large as a small network's."""

    def __init__(self):
        super().__init__()
        self.to_q = torch.nn.Linear(64, 64)
        self.to_v = torch.nn.Linear(64, 64)

    def forward(self, sample):
        return self.to_v(torch.tanh(self.to_q(sample)))


def start(config, dtype=torch.float32):
    """Return how far a network is from its base before training, as a share of the base's prediction."""
    torch.manual_seed(0)
    network, sample = Attention().to(dtype), torch.randn(16, 64).to(dtype)
    base = network(sample).detach()
    policy = peft.get_peft_model(network, config).eval()
    with torch.no_grad(), policy.disable_adapter():
        assert torch.equal(policy(sample), base)
    return ((policy(sample).float() - base.float()).norm() / base.float().norm()).item()


targets = {"target_modules": ["to_q", "to_v"]}
off = {
    "FourierFT": start(FourierFTConfig(**targets)),
    "C3A": start(C3AConfig(block_size=32, **targets)),
    "VB-LoRA": start(VBLoRAConfig(num_vectors=64, vector_length=16, **targets)),
    "Uni-LoRA": start(UniLoraConfig(**targets)),
}
orthogonal = LoraConfig(r=16, lora_alpha=16, init_lora_weights="orthogonal", **targets)
off["orthogonal LoRA in bfloat16"] = start(orthogonal, torch.bfloat16)
at = {
    "LoRA": start(LoraConfig(**targets)),
    "LoRA in bfloat16": start(LoraConfig(**targets), torch.bfloat16),
    "orthogonal LoRA": start(orthogonal),
    "VeRA": start(VeraConfig(**targets)),
    "OFT": start(OFTConfig(oft_block_size=16, **targets)),
    "HRA": start(HRAConfig(**targets)),
    "FourierFT, init_weights=True": start(FourierFTConfig(init_weights=True, **targets)),
    "C3A, init_weights=True": start(C3AConfig(block_size=32, init_weights=True, **targets)),
}
print(f"peft {peft.__version__}, torch {torch.__version__}; distance from the base before the first step")
print("guess: 0 for every method")
print("seen:  " + ", ".join(f"{name} {share:.2%}" for name, share in off.items()))
print("       " + ", ".join(f"{name} {share:.4%}" for name, share in at.items()))
if min(off.values()) < 1e-4 or off["FourierFT"] < 0.3 or max(at.values()) > 1e-5:
    raise SystemExit("the behaviour has changed")
PYTHON
