#!/usr/bin/env bash
# What happens: imageio.v3.imread and skimage.io.imread of a CMYK JPEG give an array of four channels, its inks, in the
#   shape of RGBA. The first three, or Image.fromarray of all four, are another picture: a red of (200, 40, 40) comes as
#   (55, 215, 215). Pillow, OpenCV and simplejpeg turn the same file into RGB, and libvips' thumbnail into yet another red,
#   by a profile of inks of its own.
# Versions: imageio 2.38.1, scikit-image 0.26.0, opencv-python-headless 5.0.0.93, pyvips 3.2.0, pyvips-binary 8.18.7,
#   simplejpeg 1.9.0, pillow 13.0.0, numpy 2.4.6.
# Where: imageio's plugin for Pillow converts palettes and leaves other modes, and scikit-image reads by imageio.
# Who meets it: pictures of magazines and stock among images from the web, scored or encoded beside RGB ones.
# Guess that was wrong: all of them give the same RGB.
# Instead: `Image.open(path).convert("RGB")`, or `imread(path, mode="RGB")`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check imageio==2.38.1 scikit-image==0.26.0 \
  opencv-python-headless==5.0.0.93 pyvips==3.2.0 pyvips-binary==8.18.7 simplejpeg==1.9.0 pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
from pathlib import Path

import cv2
import imageio.v3
import numpy as np
import pyvips
import simplejpeg
import skimage.io
from PIL import Image

Image.new("RGB", (64, 64), (200, 40, 40)).convert("CMYK").save("print.jpg", quality=95)
arrays = {
    "Pillow": np.asarray(Image.open("print.jpg").convert("RGB")),
    "OpenCV": cv2.imread("print.jpg")[..., ::-1],
    "simplejpeg": simplejpeg.decode_jpeg(Path("print.jpg").read_bytes()),
    "imageio": imageio.v3.imread("print.jpg"),
    "imageio, mode RGB": imageio.v3.imread("print.jpg", mode="RGB"),
    "scikit-image": skimage.io.imread("print.jpg"),
    "libvips' thumbnail": pyvips.Image.thumbnail("print.jpg", 64).numpy(),
}
found = {name: array[32, 32].astype(int).tolist() for name, array in arrays.items()}
print(f"imageio {imageio.__version__}, scikit-image {skimage.__version__}; a CMYK JPEG of (200, 40, 40)")
print("guess: (200, 40, 40), within a few steps, of each")
for name, pixel in found.items():
    print(f"seen:  {pixel} ({name})")
right = np.array([200, 40, 40])
if any(np.abs(np.array(found[name]) - right).max() > 6 for name in ("Pillow", "OpenCV", "simplejpeg", "imageio, mode RGB")):
    raise SystemExit("the behaviour has changed")
if any(np.abs(np.array(found[name])[:3] - (255 - right)).max() > 6 for name in ("imageio", "scikit-image")):
    raise SystemExit("the behaviour has changed")
if len(found["imageio"]) != 4 or np.abs(np.array(found["libvips' thumbnail"]) - right).max() < 10:
    raise SystemExit("the behaviour has changed")
PYTHON
