#!/usr/bin/env bash
# What happens: a picture is opened from a file and changed in place: `thumbnail`, a rectangle of ImageDraw, `paste`.
#   Put into a table of datasets, by `map` or by `from_dict`, it comes out as the file is: unshrunk, without the
#   rectangle.
# Versions: datasets 5.2.0, Pillow 13.0.0.
# Where: `encode_pil_image` in datasets/features/image.py: a picture that has a file name is stored as that name, and
#   its pixels are not looked at. What `resize`, `crop` or `convert` return has no file name, and is stored as it is.
# Who meets it: sets of pairs that are made smaller before training or scoring, and blurred or covered pictures: the
#   covered face is in the set, and in what is pushed to a hub. The table also breaks when the file is moved.
# Guess that was wrong: a table of pictures gets the picture that it is given.
# Instead: `picture.copy()` after the change, or `ImageOps.exif_transpose` and `resize`, which return a new one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 Pillow==13.0.0 \
  numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import datasets
import numpy as np
import PIL
from datasets import Dataset, Features, Value
from PIL import Image, ImageDraw

datasets.disable_progress_bars()
pixels = np.random.default_rng(0).integers(100, 256, (256, 384, 3), np.uint8)
Image.fromarray(pixels).save("picture.png")


def shrunk(row):
    """Return the picture at 64 pixels or less."""
    picture = Image.open(row["path"])
    picture.thumbnail((64, 64))
    return {"image": picture}


def copied(row):
    """Return the same, as a new picture."""
    return {"image": shrunk(row)["image"].copy()}


rows = Dataset.from_dict({"path": ["picture.png"]})
features = Features({"path": Value("string"), "image": datasets.Image()})
small = rows.map(shrunk, features=features)[0]["image"].size
copy = rows.map(copied, features=features)[0]["image"].size
picture = Image.open("picture.png")
ImageDraw.Draw(picture).rectangle((0, 0, 384, 256), fill="black")
table = Dataset.from_dict({"image": [picture]}, features=Features({"image": datasets.Image()}))
brightest = int(np.asarray(table[0]["image"]).max())
print(f"datasets {datasets.__version__}, Pillow {PIL.__version__}; a picture of 384 x 256 pixels, all bright")
print("guess: (64, 43) after thumbnail; brightest pixel 0 after a black rectangle over all of it")
print(f"seen:  {small} after thumbnail; brightest pixel {brightest} after a black rectangle over all of it")
print(f"       {copy} after thumbnail and copy")
if small != (384, 256) or brightest < 200 or copy != (64, 43):
    raise SystemExit("the behaviour has changed")
PYTHON
