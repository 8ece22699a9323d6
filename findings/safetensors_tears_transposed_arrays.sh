#!/usr/bin/env bash
# What happens: safetensors.numpy saves a transposed array with its new shape and the bytes in their old order. Latents that
#   were moved from channels last to channels first come back torn, without an error or a warning. So do arrays in
#   Fortran's order. safetensors.torch refuses such a tensor.
# Versions: safetensors 0.8.0, numpy 2.4.6.
# Where: _flatten in safetensors/numpy.py hands over the array's address and size, and no strides. The docstring of save
#   says that tensors need to be contiguous; nothing checks it.
# Who meets it: latents or images turned by np.transpose, np.moveaxis or .T before they are saved; what h5py, zarr or an
#   image library gives in Fortran's order.
# Guess that was wrong: the values come back as they were.
# Instead: np.ascontiguousarray(array) for each array.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

channels_last = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
channels_first = channels_last.transpose(2, 0, 1)
arrays = {
    "transposed": channels_first,
    "fortran": np.asfortranarray(channels_last),
    "copied": np.ascontiguousarray(channels_first),
}
save_file(arrays, "latents.safetensors")
stored = load_file("latents.safetensors")
equal = {name: bool(np.array_equal(stored[name], array)) for name, array in arrays.items()}
shapes = {name: stored[name].shape for name in arrays}
print(f"safetensors {safetensors.__version__}, numpy {np.__version__}; what comes back is what was saved:")
print("guess: True for each")
print(f"seen:  {equal}")
print(f"       first channel {channels_first[0].tolist()}, stored as {stored['transposed'][0].tolist()}")
if equal != {"transposed": False, "fortran": False, "copied": True} or shapes["transposed"] != (4, 2, 3):
    raise SystemExit("the behaviour has changed")
PYTHON
