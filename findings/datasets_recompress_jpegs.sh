#!/usr/bin/env bash
# What happens: a datasets.map that hands a JPEG back untouched writes another picture: encoded again with Pillow's
#   quality 75, half the size, single values off by tens of levels. Each further map loses more. Dataset.from_list on
#   decoded pictures does it too. A map that does not return the image column keeps the bytes; image.convert("RGB") makes it a PNG.
# Versions: datasets 5.2.0, pillow 13.0.0.
# Where: image_to_bytes in datasets/features/image.py saves in the format that the picture was opened in, without a
#   quality, whenever the picture has no file name.
# Who meets it: tables of comparisons hold JPEG bytes. After a map that checks or renames pictures, latents and scores
#   come from pictures that no rater saw.
# Guess that was wrong: what is returned as it came is stored as it came.
# Instead: cast_column("image", Image(decode=False)) before any map, and pass the bytes on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import io

import datasets
import numpy as np
import PIL
from PIL import Image

datasets.disable_progress_bars()
pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
buffer = io.BytesIO()
Image.fromarray(pixels).resize((128, 128)).save(buffer, "JPEG", quality=95)
row = {"image": {"bytes": buffer.getvalue(), "path": None}}
features = datasets.Features({"image": datasets.Image()})
original = datasets.Dataset.from_list([row], features=features)


def values(dataset):
    return np.asarray(dataset[0]["image"]).astype(int)


def size(dataset):
    return len(dataset.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"])


def off(dataset):
    difference = np.abs(values(original) - values(dataset))
    return int(difference.max()), round(float(difference.mean()), 2)


once = original.map(lambda one: {"image": one["image"]})
twice = once.map(lambda one: {"image": one["image"]})
print(f"datasets {datasets.__version__}, pillow {PIL.__version__}")
print("guess: the same bytes")
print(f"seen:  {size(original)} bytes became {size(once)}")
print(f"       levels off (largest, mean): {off(once)}, after a second map {off(twice)}")
if off(once)[0] < 5 or size(once) >= size(original):
    raise SystemExit("the behaviour has changed")
PYTHON
