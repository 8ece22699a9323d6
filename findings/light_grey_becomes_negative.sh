#!/usr/bin/env bash
# What happens: torchvision's to_tensor of a 16-bit grey PNG gives int16: black is 0, a middle grey of 40,000 is -25,536 and
#   white is -1. It is not divided either, as 8-bit images are. transforms.v2 gives 0.61 and 1.
# Versions: torchvision 0.28.0, torch 2.13.0, pillow 13.0.0.
# Where: `to_tensor` in torchvision/transforms/functional.py: its table of modes has np.int16 for "I;16".
# Who meets it: depth maps, masks and renderings of 16 bits among images or conditions. ToTensor is what most scripts and
#   timm's and open_clip's transforms use.
# Guess that was wrong: floats from 0 to 1, as for every other PNG, or an error.
# Instead: `v2.ToImage()` and `v2.ToDtype(torch.float32, scale=True)`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import numpy as np
import torch
from PIL import Image

if torch.version.cuda is None:  # a torchvision built for CUDA asks for these operators, which nothing here calls
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import torchvision
from torchvision.transforms import functional, v2

Image.fromarray(np.array([[0, 20000, 40000, 65535]], np.uint16)).save("grey.png")
picture = Image.open("grey.png")
tensor = functional.to_tensor(picture)
newer = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])(picture)
print(f"torchvision {torchvision.__version__}; a PNG of mode {picture.mode} with 0, 20000, 40000 and 65535")
print("guess: 0.0, 0.305, 0.61, 1.0")
print(f"seen:  {tensor.flatten().tolist()} of {tensor.dtype}; v2 {[round(v, 3) for v in newer.flatten().tolist()]}")
if tensor.dtype != torch.int16 or tensor.flatten().tolist() != [0, 20000, -25536, -1]:
    raise SystemExit("the behaviour has changed")
if [round(value, 2) for value in newer.flatten().tolist()] != [0.0, 0.31, 0.61, 1.0]:
    raise SystemExit("the behaviour has changed")
PYTHON
