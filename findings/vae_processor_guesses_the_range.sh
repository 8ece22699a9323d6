#!/usr/bin/env bash
# What happens: VaeImageProcessor.preprocess decides from the values whether a tensor is already in [-1, 1]: if its
#   least value is below 0. A bright picture without dark values is normalised again (0.2 becomes -0.6). In a batch with a
#   darker one it is left alone, so its latents depend on its neighbour. uint8 tensors and arrays come out in [-1, 509].
#   The bright picture and uint8 give no warning.
# Versions: diffusers 0.42.1.
# Where: VaeImageProcessor.preprocess in diffusers/image_processor.py (`image.min() < 0`).
# Who meets it: encoding winners and losers from tensors. A pair encoded alone and in a batch gets different latents.
# Guess that was wrong: [-1, 1] is left alone with a warning; uint8 is divided by 255 or refused.
# Instead: hand over PIL pictures, or build the processor with do_normalize=False and float tensors in [-1, 1].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 numpy==2.4.6 pillow==13.0.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import diffusers
import torch
from diffusers.image_processor import VaeImageProcessor

processor = VaeImageProcessor(vae_scale_factor=8)
bright = torch.linspace(0.2, 1.0, 192).reshape(1, 3, 8, 8)
dark = torch.linspace(-1.0, 1.0, 192).reshape(1, 3, 8, 8)
bytes_ = torch.arange(192, dtype=torch.uint8).reshape(1, 3, 8, 8)
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    alone = processor.preprocess(bright)
    integers = processor.preprocess(bytes_)
beside = processor.preprocess(torch.cat([dark, bright]))[1:]


def span(pixels):
    return round(pixels.min().item(), 2), round(pixels.max().item(), 2)


print(f"diffusers {diffusers.__version__}; a picture in [-1, 1] whose values run from 0.2 to 1")
print("guess: (0.2, 1.0) alone and in a batch; 0..191 as uint8 becomes (-1, 0.5), or raises")
print(f"seen:  {span(alone)} alone, {span(beside)} beside a darker one")
print(f"       uint8 {span(integers)}; warnings: {len(warned)}")
if span(alone) != (-0.6, 1.0) or span(beside) != (0.2, 1.0) or integers.max() != 381 or warned:
    raise SystemExit("the behaviour has changed")
PYTHON
