#!/usr/bin/env bash
# What happens: numpy's std of a float16 latent of 16 x 128 x 128 standard normal numbers is inf, and its norm as well; its
#   mean is right. The sum of 3,000 ones over the first axis of a float16 array is 2048, over the last axis 3000, so
#   averages over a batch that divide a sum come out too small without any warning.
# Versions: numpy 2.4.6.
# Where: mean accumulates float16 in float32 (numpy/_core/_methods.py); var, linalg.norm and sum accumulate in float16.
#   Its greatest number is 65,504, and from 2,048 on adding 1 changes nothing; only sums along contiguous memory are
#   added up in pairs.
# Who meets it: latent stores are float16. Statistics of latents (a scaling factor, a check for damaged rows, a norm by
#   which rows are left out) are inf or too small; smaller latents of SD1.5, 16,384 numbers, hide it.
# Guess that was wrong: std is right, as mean is; norm computes in a wider type. The sum was not thought of.
# Instead: dtype=np.float32 for mean, std, var and sum; latent.astype(np.float32) for norm.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np

random = np.random.default_rng(0)
large = random.standard_normal((16, 128, 128)).astype(np.float16)
small = random.standard_normal((4, 64, 64)).astype(np.float16)
ones = np.ones((3000, 4), np.float16)
with np.errstate(over="ignore"):
    spread = {latent.shape: float(latent.std()) for latent in (small, large)}
    norm = float(np.linalg.norm(large))
mean = float(large.mean())
wide = float(large.std(dtype=np.float32)), float(np.linalg.norm(large.astype(np.float32)))
over_batch = float(ones.sum(axis=0)[0])
over_last = float(np.ascontiguousarray(ones.T).sum(axis=-1)[0])

print(f"numpy {np.__version__}; float16 latents of standard normal numbers")
print("guess: std about 1 for both shapes, norm about 512")
print(f"seen:  std {spread}, norm {norm}, mean {mean:.4f}; in float32 std {wide[0]:.3f}, norm {wide[1]:.0f}")
print(f"       3,000 ones summed over the batch {over_batch:.0f}, over the last axis {over_last:.0f}")
as_described = abs(spread[small.shape] - 1) < 0.05 and spread[large.shape] == np.inf and norm == np.inf
if not as_described or abs(mean) > 0.01 or abs(wide[0] - 1) > 0.05 or (over_batch, over_last) != (2048, 3000):
    raise SystemExit("the behaviour has changed")
PYTHON
