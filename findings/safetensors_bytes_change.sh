#!/usr/bin/env bash
# What happens: the same tensors with the same metadata of two or more entries are saved as files of different bytes, so
#   of different SHA-256, in different processes. The tensors are equal.
# Versions: safetensors 0.8.0.
# Where: safetensors keeps metadata in a HashMap of Rust, whose order is chosen anew in each process, and writes it so.
# Who meets it: whoever knows weights by their file's hash. A LoRA file has two entries ("format" and peft's settings), so
#   a training that repeats bit for bit gives another file, and a cache or a check by SHA-256 takes it for another model.
# Guess that was wrong: the same content gives the same bytes.
# Instead: compare tensors, or hash them by name; or write one metadata entry, which has one order.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import hashlib
import importlib.metadata
import subprocess
import sys

CODE = """
import sys
import numpy as np
from safetensors.numpy import save_file
entries = {"format": "pt", "rank": "8", "alpha": "8"}
metadata = dict(list(entries.items())[: int(sys.argv[2])])
save_file({"weight": np.arange(4.0)}, sys.argv[1], metadata=metadata)
"""


def hashes(entries: int) -> set[str]:
    found = set()
    for _ in range(12):  # three entries have six orders: that twelve processes choose one has odds of 1 to 6 ** 11
        subprocess.run([sys.executable, "-c", CODE, "x.safetensors", str(entries)], check=True)
        found.add(hashlib.sha256(open("x.safetensors", "rb").read()).hexdigest())
    return found


one, three = len(hashes(1)), len(hashes(3))
print({"safetensors": importlib.metadata.version("safetensors")})
print("guess: 1 hash of twelve files with one metadata entry, and 1 of twelve with three")
print(f"seen:  {one} hash with one entry, {three} with three")
if one != 1 or three < 2:
    raise SystemExit("the behaviour has changed")
PYTHON
