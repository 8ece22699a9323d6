#!/usr/bin/env bash
# What happens: a picture is opened from a file and changed in place: `thumbnail`, a rectangle of ImageDraw, `paste`.
#   Put into a table of datasets, by `map` or by `from_dict`, it comes out as the file is: unshrunk, without the
#   rectangle. Opened from a JPEG and saved as JPEG XL by pillow-jxl-plugin, it is the untouched file, too.
# Versions: datasets 5.2.0, pillow-jxl-plugin 1.3.8, Pillow 13.0.0, numpy 2.4.6.
# Where: `encode_pil_image` in datasets/features/image.py: a picture that has a file name is stored as that name, and
#   its pixels are not looked at. `_save` of pillow_jxl/JpegXLImagePlugin.py transcodes the file that a picture of format
#   JPEG has the name of, with a warning. What `resize`, `crop` or `convert` return has no file name, and is stored as it is.
# Who meets it: sets of pairs that are made smaller before training or scoring, and blurred or covered pictures: the
#   covered face is in the set, and in what is pushed to a hub. The table also breaks when the file is moved.
# Guess that was wrong: a table of pictures gets the picture that it is given, and so does `save`.
# Instead: `picture.copy()` after the change, or `ImageOps.exif_transpose` and `resize`, which return a new one; for JPEG
#   XL also `save(..., lossless_jpeg=False)`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 Pillow==13.0.0 \
  pillow-jxl-plugin==1.3.8 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import datasets
import numpy as np
import PIL
import pillow_jxl  # noqa: F401  (registers the format)
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


def saved(name, **options):
    """Return the brightest pixel and the size of a JPEG that was covered and shrunk in place, and saved by a name."""
    picture = Image.open("picture.jpg")
    ImageDraw.Draw(picture).rectangle((0, 0, 384, 256), fill="black")
    picture.thumbnail((64, 64))
    picture.save(name, **options)
    reopened = Image.open(name)
    return int(np.asarray(reopened.convert("RGB")).max()), reopened.size


rows = Dataset.from_dict({"path": ["picture.png"]})
features = Features({"path": Value("string"), "image": datasets.Image()})
small = rows.map(shrunk, features=features)[0]["image"].size
copy = rows.map(copied, features=features)[0]["image"].size
picture = Image.open("picture.png")
ImageDraw.Draw(picture).rectangle((0, 0, 384, 256), fill="black")
table = Dataset.from_dict({"image": [picture]}, features=Features({"image": datasets.Image()}))
brightest = int(np.asarray(table[0]["image"]).max())
Image.fromarray(pixels).save("picture.jpg")
as_jxl, as_png, not_transcoded = saved("one.jxl"), saved("one.png"), saved("two.jxl", lossless_jpeg=False)
print(f"datasets {datasets.__version__}, Pillow {PIL.__version__}; a picture of 384 x 256 pixels, all bright")
print("guess: (64, 43) after thumbnail; brightest pixel 0 after a black rectangle over all of it")
print(f"seen:  {small} after thumbnail; brightest pixel {brightest} after a black rectangle over all of it")
print(f"       {copy} after thumbnail and copy")
print(f"       both in a JPEG: {as_jxl} saved as JPEG XL, {as_png} as PNG, {not_transcoded} with lossless_jpeg=False")
if small != (384, 256) or brightest < 200 or copy != (64, 43):
    raise SystemExit("the behaviour has changed")
if as_jxl[0] < 200 or as_jxl[1] != (384, 256) or as_png != (0, (64, 43)):
    raise SystemExit("the behaviour has changed")
if not_transcoded[0] > 20 or not_transcoded[1] != (64, 43):
    raise SystemExit("the behaviour has changed")
PYTHON
