#!/usr/bin/env bash
# What happens: VaeImageProcessor.preprocess of a list of PIL pictures of different sizes squeezes all of them into the
#   first one's size, without a warning. A portrait beside a landscape is distorted to twice its width.
# Versions: diffusers 0.42.1.
# Where: preprocess in diffusers/image_processor.py takes height and width from image[0] and resizes each to them.
# Who meets it: winner and loser of a comparison go in as one list. They may come from models with other shapes; which
#   of the two is distorted depends on the slot.
# Guess: none was written down; it came up while the neighbouring behaviour was tried. An error was expected.
# Instead: preprocess one at a time, or crop both to one shape first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 numpy==2.4.6 pillow==13.0.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import PIL
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageDraw

landscape = Image.new("RGB", (128, 64))
portrait = Image.new("RGB", (64, 128))
ImageDraw.Draw(portrait).rectangle((16, 48, 47, 79), fill="white")  # a square of 32 x 32
both = VaeImageProcessor(vae_scale_factor=8).preprocess([landscape, portrait])
white = (both[1, 0] > 0).nonzero()
high, wide = (white.amax(0) - white.amin(0) + 1).tolist()

print(f"diffusers {diffusers.__version__}, pillow {PIL.__version__}")
print("pictures of 128 x 64 and 64 x 128, the second with a square")
print("expected: an error about unequal shapes")
print(f"seen:  a batch {tuple(both.shape)}, in which the square of 32 x 32 is {wide} wide and {high} high")
if tuple(both.shape) != (2, 3, 64, 128) or wide < 3 * high:
    raise SystemExit("the behaviour has changed")
PYTHON
