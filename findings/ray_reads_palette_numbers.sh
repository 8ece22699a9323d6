#!/usr/bin/env bash
# What happens: ray.data.read_images without a mode gives a palette PNG as its palette's numbers: two dimensions, one
#   number a pixel, which is an index and no brightness. White on black comes as 1 on 0, or 0 on 1, as the file has it.
# Versions: ray 2.60.0, pillow 13.0.0.
# Where: ImageDatasource._read_stream in ray/data/_internal/datasource/image_datasource.py calls np.asarray on what
#   Pillow opened; it converts only when mode is given.
# Who meets it: PNGs that were made small by a palette (exports, screenshots, logos) among the pictures to encode or
#   score. A step that repeats grey pictures into three channels takes them for nearly black ones.
# Guess that was wrong: pictures arrive as RGB.
# Instead: ray.data.read_images(..., mode="RGB").
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "ray[data]==2.60.0" pillow==13.0.0 numpy==2.4.6 pyarrow==26.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging

import numpy as np
import PIL
import ray
from PIL import Image

pixels = np.zeros((4, 4, 3), np.uint8)
pixels[:, 2:] = (200, 30, 30)
palette = Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
palette.save("palette.png")
ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
plain = ray.data.read_images("palette.png").take(1)[0]["image"]
colours = ray.data.read_images("palette.png", mode="RGB").take(1)[0]["image"]
ray.shutdown()

print(f"ray {ray.__version__}, pillow {PIL.__version__}; a palette PNG, left half black, right half red")
print("guess: (4, 4, 3) with the colours 0 and 200")
print(f"seen:  {plain.shape} with the values {np.unique(plain).tolist()}; with mode='RGB' {colours.shape}")
if plain.shape != (4, 4) or np.unique(plain).tolist() != [0, 1] or colours.shape != (4, 4, 3):
    raise SystemExit("the behaviour has changed")
PYTHON
