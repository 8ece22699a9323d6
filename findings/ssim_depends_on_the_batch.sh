#!/usr/bin/env bash
# What happens: torchmetrics' SSIM of a pair of pale images is 0.50 alone and 0.77 in a batch beside two images of full
#   contrast. With data_range=1 it is 0.77 in both. Without data_range the range is that of the whole batch, from its
#   darkest to its brightest pixel, also where reduction="none" gives a value for each pair.
# Versions: torchmetrics 1.9.0, torch 2.13.0, numpy 2.4.6.
# Where: `_ssim_update` in torchmetrics/functional/image/ssim.py: `data_range = max(preds.max() - preds.min(), ...)`. The
#   multi-scale SSIM takes the same way.
# Who meets it: similarity of edits or of decoded latents to their originals. The last, smaller batch, another batch size
#   or another order gives other scores of the same pairs.
# Guess that was wrong: the range is each image's own, or 1 for floats, so a pair's score is its own.
# Instead: data_range=1.0, always.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 \
  numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import torch
import torchmetrics
from torchmetrics.image import StructuralSimilarityIndexMeasure

torch.manual_seed(0)
smooth = torch.nn.functional.interpolate(torch.rand(2, 3, 24, 24), size=128, mode="bicubic").clamp(0, 1)
pale = 0.45 + 0.1 * smooth[:1]
noisy = pale + 0.02 * torch.randn_like(pale)
contrast = smooth[1:]


def similarity(images, originals, **options):
    """Return the SSIM of the first pair of a batch."""
    return StructuralSimilarityIndexMeasure(reduction="none", **options)(images, originals).flatten()[0].item()


alone = similarity(noisy, pale)
beside = similarity(torch.cat([noisy, contrast]), torch.cat([pale, contrast]))
ranged = similarity(noisy, pale, data_range=1.0)
together = similarity(torch.cat([noisy, contrast]), torch.cat([pale, contrast]), data_range=1.0)
print(f"torchmetrics {torchmetrics.__version__}; SSIM of one pair of pale images")
print("guess: the same alone and in a batch")
print(f"seen:  {alone:.2f} alone, {beside:.2f} in a batch; with data_range=1 {ranged:.2f} and {together:.2f}")
if abs(alone - 0.50) > 0.01 or max(abs(value - 0.77) for value in (beside, ranged, together)) > 0.01:
    raise SystemExit("the behaviour has changed")
if abs(ranged - together) > 1e-4:
    raise SystemExit("the behaviour has changed")
PYTHON
