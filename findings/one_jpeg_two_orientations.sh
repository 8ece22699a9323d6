#!/usr/bin/env bash
# What happens: a JPEG with an orientation mark is 4 x 8 through datasets.Image and diffusers' load_image, and 8 x 4
#   through Pillow, webdataset's "pil" decoder and whatever else opens it plainly. datasets turns the picture when it
#   decodes.
# Versions: datasets 5.2.0, diffusers 0.42.1, webdataset 1.0.2, pillow 13.0.0.
# Where: Image.decode_example in datasets/features/image.py (exif_transpose); load_image in diffusers/utils; webdataset
#   has no such step in webdataset/autodecode.py.
# Who meets it: people's own photographs as start images or winners. Latents made from one reader and scores from
#   another are of different pictures, and a width and height column fits one of them only.
# Guess that was wrong: datasets, a storage library, leaves pixels as Pillow opens them.
# Instead: turn once, when the pairs are imported, and store without the mark.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 datasets==5.2.0 diffusers==0.42.1 webdataset==1.0.2 pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import io

import datasets
import webdataset
from diffusers.utils import load_image
from PIL import Image

marks = Image.Exif()
marks[0x0112] = 6  # shown rightly after a quarter turn
buffer = io.BytesIO()
Image.new("RGB", (8, 4)).save(buffer, "JPEG", exif=marks)
with open("turned.jpg", "wb") as file:
    file.write(buffer.getvalue())
with webdataset.TarWriter("shard.tar") as shard:
    shard.write({"__key__": "0", "jpg": buffer.getvalue()})

table = datasets.Dataset.from_dict({"image": ["turned.jpg"]}).cast_column("image", datasets.Image())
sizes = {
    "datasets": table[0]["image"].size,
    "diffusers": load_image("turned.jpg").size,
    "webdataset": next(iter(webdataset.WebDataset("shard.tar", shardshuffle=False).decode("pil")))["jpg"].size,
    "pillow": Image.open("turned.jpg").size,
}
print({package: importlib.metadata.version(package) for package in ("datasets", "diffusers", "webdataset", "pillow")})
print("guess: (8, 4) from all but diffusers")
print(f"seen:  {sizes}")
if sizes != {"datasets": (4, 8), "diffusers": (4, 8), "webdataset": (8, 4), "pillow": (8, 4)}:
    raise SystemExit("the behaviour has changed")
PYTHON
