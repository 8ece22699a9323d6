#!/usr/bin/env bash
# What happens: open_clip's image transform resizes first and converts to RGB afterwards. Pillow resizes a picture
#   with a palette by taking the nearest pixel, whatever filter was asked for. So a palette PNG or a GIF reaches the
#   model with jagged pixels: 10 of 255 off on average on a fine pattern, and up to 100, against the same colours saved
#   as RGB.
# Versions: open_clip_torch 3.3.0, Pillow 13.0.0, torchvision 0.28.0.
# Where: `image_transform` in open_clip/transform.py: Resize, CenterCrop, then MaybeConvertMode. OpenAI's CLIP has the
#   same order, and so have ImageReward and CycleReward. `Image.resize` in PIL/Image.py takes NEAREST for modes 1 and
#   P.
# Who meets it: scores by CLIP, HPSv2 or ImageReward of pictures from the web or from a tool that saves palettes. One
#   of a pair's two pictures may be such a file, and the other not.
# Guess that was wrong: the transform asks for bicubic with antialiasing, and so every picture gets it.
# Instead: `image.convert("RGB")` before the transform.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 \
  open_clip_torch==3.3.0 Pillow==13.0.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import numpy as np
import PIL
import torch
from PIL import Image

if torch.version.cuda is None:  # a torchvision built for CUDA asks for these operators, which nothing here calls
    operators = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import open_clip
from open_clip.transform import image_transform

y, x = np.mgrid[0:512, 0:512]
waves = [np.sin(x / 3.1 + y / 7), np.sin(y / 2.3), np.sin((x + y) / 5)]
picture = Image.fromarray((127 + 120 * np.stack(waves, -1)).astype(np.uint8))
palette = picture.quantize(256)  # as it comes from a palette PNG
same = palette.convert("RGB")  # the very same colours
assert (np.asarray(palette.convert("RGB")) == np.asarray(same)).all()
transform = image_transform(224, is_train=False)
spread = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
off = ((transform(palette) - transform(same)) * spread * 255).abs()
print(f"open_clip {open_clip.__version__}, Pillow {PIL.__version__}; 512 pixels to 224, palette against RGB")
print("guess: differences of 0")
print(f"seen:  {off.mean():.1f} of 255 on average, at most {off.max():.0f}")
nearest = np.asarray(palette.resize((224, 224), Image.Resampling.NEAREST).convert("RGB"))
asked = np.asarray(palette.resize((224, 224), Image.Resampling.BICUBIC).convert("RGB"))
print(f"       Pillow's bicubic of a palette is its nearest: {(nearest == asked).all()}")
if off.mean() < 5 or not (nearest == asked).all():
    raise SystemExit("the behaviour has changed")
PYTHON
