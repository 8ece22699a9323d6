#!/usr/bin/env bash
# What happens: litdata's optimize stores a palette PNG, opened by Pillow, as mode P with its indices alone. Read back, the
#   picture has mode P and no palette: converted to RGB, a red and blue picture is black, without a word. Opened JPEGs
#   keep their file's bytes.
# Versions: litdata 0.2.76, pillow 13.0.0, torch 2.13.0.
# Where: PILSerializer in litdata/streaming/serializers.py writes width, height, mode and item.tobytes(), and no palette.
# Who meets it: PNGs that were made small by a palette (exports, screenshots, GIF frames) among preference images.
# Guess that was wrong: the colours come back.
# Instead: image.convert("RGB") in the function that optimize calls, or store the file's bytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check litdata==0.2.76 pillow==13.0.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
cat > optimise.py <<'PYTHON'
import numpy as np
import litdata
import PIL
from PIL import Image


def sample(index):
    return {"image": Image.open("palette.png"), "label_0": index}


if __name__ == "__main__":
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = (220, 30, 30)
    pixels[:, 4:] = (30, 30, 220)
    Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE, colors=2).save("palette.png")
    litdata.optimize(fn=sample, inputs=[0], output_dir="stored", chunk_bytes="1MB", num_workers=1)
    image = litdata.StreamingDataset("stored")[0]["image"]
    colours = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0).tolist()
    print(f"litdata {litdata.__version__}, pillow {PIL.__version__}; a palette PNG, half red, half blue")
    print("guess: its colours (220, 30, 30) and (30, 30, 220)")
    indices = np.unique(np.asarray(image)).tolist()
    print(f"seen:  mode {image.mode}, indices {indices}, colours {colours}")
    if image.mode != "P" or indices != [0, 1] or colours != [[0, 0, 0]]:
        raise SystemExit("the behaviour has changed")
PYTHON
"$folder/venv/bin/python" optimise.py 2> log || { cat log; exit 1; }
