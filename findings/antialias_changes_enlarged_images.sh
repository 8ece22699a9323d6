#!/usr/bin/env bash
# What happens: `antialias=True` of a bicubic resize of tensors also changes images that are enlarged, where there is
#   nothing to antialias. It takes another cubic: a = -0.5, as Pillow does, in place of -0.75.
# Versions: torch 2.13.0, Pillow 13.0.0.
# Where: torch.nn.functional.interpolate(mode="bicubic"), which torchvision.transforms.functional.resize calls. Since
#   torchvision 0.17 that antialiases by default.
# Who meets it: whoever scores small generated images (64 to 224 pixels) by a CLIP whose transform resizes tensors, such
#   as HPSv2's, and compares with scores of an older torchvision.
# Guess that was wrong: antialiasing matters only where an image gets smaller.
# Instead: say antialias in the call, and keep it with the scores; enlarge with Pillow where Pillow made the figures.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 pillow==13.0.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy
import PIL
import torch
from PIL import Image

step = numpy.zeros((8, 8), numpy.float32)
step[:, 4:] = 1.0  # an edge
size = (16, 16)


def enlarged(antialias):
    tensor = torch.from_numpy(step)[None, None]
    made = torch.nn.functional.interpolate(tensor, size, mode="bicubic", align_corners=False, antialias=antialias)
    return made[0, 0, 8].numpy()


without = enlarged(False)
smooth = enlarged(True)
pillow = numpy.asarray(Image.fromarray(step).resize(size, Image.Resampling.BICUBIC))[8]
print(f"torch {torch.__version__}, Pillow {PIL.__version__}")
print("guess: an edge enlarged to twice its size is the same with antialias and without")
print(f"seen:  overshoot {without.max() - 1:.4f} without, {smooth.max() - 1:.4f} with, {pillow.max() - 1:.4f} by Pillow")
print(f"       largest difference {255 * abs(without - smooth).max():.1f} of 255, with to Pillow {255 * abs(smooth - pillow).max():.3f}")
if abs(without - smooth).max() < 0.01 or abs(smooth - pillow).max() > 1e-4:
    raise SystemExit("the behaviour has changed")
PYTHON
