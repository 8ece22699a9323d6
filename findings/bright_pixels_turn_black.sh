#!/usr/bin/env bash
# What happens: torchmetrics' metrics with normalize=True turn a pixel of 1.01 into 1 of 255, and one of -0.01 into 254:
#   floats go to bytes without a limit, and wrap round. An error is neither raised nor said.
# Versions: torchmetrics 1.9.0, torch 2.13.0 on an x86-64 CPU; other devices may turn such floats into other bytes.
# Where: `(imgs * 255).byte()` in `update` of torchmetrics/image/inception.py; fid.py and kid.py have the same line for
#   their own Inception network, and mifid.py for its.
# Who meets it: images of a VAE's decoder, of bicubic resizing or of sharpening, which leave [0, 1] a little. White
#   becomes speckled with black, and FID, KID and the inception score judge the speckles.
# Guess that was wrong: values are limited to [0, 1], as torchvision's save_image and diffusers do.
# Instead: `images.clamp(0, 1)` before `update`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0
cd "$folder"
"$folder/venv/bin/python" - 2> warnings <<'PYTHON'
import torch
import torchmetrics
from torchmetrics.image.inception import InceptionScore


class Watch(torch.nn.Module):
    """Stands in the place of the Inception network, and keeps what it is given."""

    def forward(self, images):
        self.images = images
        return images.float().flatten(1)


watch = Watch()
score = InceptionScore(feature=watch, normalize=True)
pixels = [-0.01, 0.0, 0.5, 1.0, 1.01]
score.update(torch.tensor(pixels).expand(2, 3, 1, 5))
seen = watch.images[0, 0, 0].tolist()
print(f"torchmetrics {torchmetrics.__version__}; pixels {pixels} with normalize=True")
print("guess: 0, 0, 127, 255, 255")
print(f"seen:  {', '.join(str(value) for value in seen)}")
if seen != [254, 0, 127, 255, 1]:
    raise SystemExit("the behaviour has changed")
PYTHON
