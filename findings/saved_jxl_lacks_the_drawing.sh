#!/usr/bin/env bash
# What happens: a JPEG that Pillow opened, drew upon or shrank in place, and saved as JPEG XL by pillow-jxl-plugin, is the
#   untouched file: without the drawing, and in its old size. As PNG it is saved as it is. A
#   warning says that the JPEG is reconstructed.
# Versions: pillow-jxl-plugin 1.3.8, pillow 13.0.0, numpy 2.4.6.
# Where: `_save` of pillow_jxl/JpegXLImagePlugin.py: a picture whose format is JPEG is transcoded from its `filename`, and
#   drawing in place, `thumbnail` and `paste` leave both attributes.
# Who meets it: marks, masks or blurred faces drawn upon JPEGs, then stored small; also images shrunk for a set of pairs.
# Guess that was wrong: the picture in memory is saved.
# Instead: `image.convert("RGB")` or `image.copy()` first, or `save(..., lossless_jpeg=False)`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pillow-jxl-plugin==1.3.8 pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2> warnings <<'PYTHON'
import importlib.metadata

import pillow_jxl  # noqa: F401  (registers the format)
from PIL import Image, ImageDraw

Image.new("RGB", (256, 256), (0, 0, 200)).save("face.jpg", quality=95)


def drawn(name, **options):
    """Return a pixel of the opened JPEG after a black rectangle was drawn there and the picture saved by a name."""
    picture = Image.open("face.jpg")
    ImageDraw.Draw(picture).rectangle((0, 0, 128, 128), fill=(0, 0, 0))
    picture.save(name, **options)
    return Image.open(name).convert("RGB").getpixel((64, 64))


def shrunk(name):
    """Return the size of the opened JPEG after it was shrunk in place and saved by a name."""
    picture = Image.open("face.jpg")
    picture.thumbnail((64, 64))
    picture.save(name)
    return Image.open(name).size


found = {name: (drawn(name), shrunk(name)) for name in ("face.jxl", "face.png")}
told = drawn("told.jxl", lossless_jpeg=False)
print(f"pillow-jxl-plugin {importlib.metadata.version('pillow-jxl-plugin')}; a blue JPEG, drawn black, or shrunk to 64")
print("guess: black, and 64 x 64")
for name, (pixel, size) in found.items():
    print(f"seen:  {pixel}, {size[0]} x {size[1]} ({name})")
print(f"       {told} with lossless_jpeg=False")
if found["face.jxl"][0][2] < 150 or found["face.jxl"][1] != (256, 256) or found["face.png"] != ((0, 0, 0), (64, 64)):
    raise SystemExit("the behaviour has changed")
if max(told) > 20:
    raise SystemExit("the behaviour has changed")
PYTHON
