#!/usr/bin/env bash
# What happens: FSDP2's MixedPrecisionPolicy(param_dtype=bfloat16) casts every floating-point input of the wrapped
#   network, the timestep as well. 701.3 becomes 700 and 999 becomes 1000. SD3's network, which under autocast tells twelve
#   neighbouring times apart, tells two. Whole-number timesteps (int64) pass as they are.
# Versions: torch 2.13.0, diffusers 0.42.1.
# Where: cast_forward_inputs is True by default; FSDPState._cast_forward_inputs in
#   torch/distributed/fsdp/_fully_shard/_fsdp_state.py maps the cast over all tensors of all arguments.
# Who meets it: flow models (SD3, FLUX, Qwen) are told a fractional time. Sharding a run then changes what the network
#   is told while the noise in its input stays exact; cached reference errors of an unsharded job do not fit.
# Guess that was wrong: the policy is about weights and activations; an input that no weight multiplies stays float32.
# Instead: cast_forward_inputs=False on the outermost fully_shard, and cast latents and text yourself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import copy
import os

import diffusers
import torch
import torch.distributed as distributed
from diffusers import SD3Transformer2DModel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
torch.manual_seed(0)
plain = SD3Transformer2DModel(
    sample_size=8,
    patch_size=2,
    in_channels=4,
    out_channels=4,
    num_layers=1,
    attention_head_dim=8,
    num_attention_heads=2,
    joint_attention_dim=16,
    caption_projection_dim=16,
    pooled_projection_dim=8,
    pos_embed_max_size=8,
).eval()
latents = torch.randn(1, 4, 8, 8)
text = torch.randn(1, 3, 16)
pooled = torch.randn(1, 8)


def told_apart(network):
    outputs = set()
    with torch.no_grad():
        for step in range(12):
            time = torch.tensor([700 + step / 4])
            outputs.add(network(latents, text, pooled, time).sample.float().sum().item())
    return len(outputs)


with torch.autocast("cpu", dtype=torch.bfloat16):
    autocast = told_apart(plain)
counts = {}
for name, cast in (("default", True), ("cast_forward_inputs=False", False)):
    network = copy.deepcopy(plain)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, cast_forward_inputs=cast)
    seen = []
    network.time_text_embed.time_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0].item()))
    for block in network.transformer_blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)
    if cast:
        counts[name] = told_apart(network)
    else:
        told = [part.to(torch.bfloat16) for part in (latents, text, pooled)]
        with torch.no_grad():
            network(*told, torch.tensor([701.3]))
        counts[name] = f"the network is told {seen[-1]:.1f} for 701.3"
distributed.destroy_process_group()

print(f"torch {torch.__version__}, diffusers {diffusers.__version__}; predictions told apart of 12 times")
print(f"autocast: {autocast}")
print("guess: 12 under FSDP2, too")
print(f"seen:  {counts}")
if autocast != 12 or counts["default"] > 3 or "701.3" not in counts["cast_forward_inputs=False"]:
    raise SystemExit("the behaviour has changed")
PYTHON
