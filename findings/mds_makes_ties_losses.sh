#!/usr/bin/env bash
# What happens: MosaicML's streaming writes a label of 0.5 into a column of type int8 as 0, without a word: a tie becomes a
#   loss of slot 0. A column of type int refuses the same value. A palette picture in a column of type pil comes back
#   without its palette, black when it is converted to RGB; type png keeps it.
# Versions: mosaicml-streaming 0.13.0, torch 2.13.0, numpy 2.1.3.
# Where: streaming/base/format/mds/encodings.py. The types with a size convert by numpy's type, and only int, str and bytes
#   look at the value's class; pil writes mode, size and raw bytes.
# Who meets it: a set of pairs with ties that is written for StreamingDataset with a small type for its labels.
# Guess that was wrong: int8 refuses 0.5, and the colours come back.
# Instead: float32 for labels; png, or image.convert("RGB").
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check mosaicml-streaming==0.13.0 torch==2.13.0 torchvision==0.28.0 numpy==2.1.3
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import torch
from PIL import Image

if torch.version.cuda is None:  # a torchvision built for CUDA asks for these operators, which nothing here calls
    operators = torch.library.Library("torchvision", "FRAGMENT")
    operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import streaming
from streaming import MDSWriter, StreamingDataset


def stored(name, kind, values):
    try:
        with MDSWriter(out=name, columns={"value": kind}) as writer:
            for value in values:
                writer.write({"value": value})
    except AttributeError as error:
        return type(error).__name__
    return [row["value"] for row in StreamingDataset(local=name, batch_size=1)]


pixels = np.zeros((8, 8, 3), np.uint8)
pixels[:, :4] = (220, 30, 30)
palette = Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
labels = {kind: stored(kind, kind, [1, 0.5]) for kind in ("int8", "float32", "int")}
reds = {kind: int(np.asarray(stored(kind, kind, [palette])[0].convert("RGB")).max()) for kind in ("pil", "png")}
print(f"streaming {streaming.__version__}; labels 1 and 0.5, and a red and black palette picture")
print("guess: an error for int8, and a red of 220 for pil and png")
print(f"seen:  {labels}; greatest red {reds}")
if labels != {"int8": [1, 0], "float32": [1.0, 0.5], "int": "AttributeError"} or reds != {"pil": 0, "png": 220}:
    raise SystemExit("the behaviour has changed")
PYTHON
