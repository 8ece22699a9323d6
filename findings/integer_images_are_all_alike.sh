#!/usr/bin/env bash
# What happens: scikit-image's structural_similarity of two different images is 1.0 where they are int64 arrays, and their
#   PSNR is 339 dB; as uint8 the same images have 0.01 and 8 dB. structural_similarity warns, the others say nothing.
#   resize of an int64 image gives values near 1e-17.
# Versions: scikit-image 0.26.0, numpy 2.4.6.
# Where: the range of an image is that of its type where `data_range` is left out: 2 to the 64 for int64 in
#   skimage/metrics, and `img_as_float` divides by it. Of floats `structural_similarity` asks for the range.
# Who meets it: pixels that a calculation, a tensor's `long()` or `astype(int)` made int64 before a metric.
# Guess that was wrong: an error, as for floats, or the range 255.
# Instead: `data_range=255`, or uint8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check scikit-image==0.26.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import warnings

import numpy as np
import skimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from skimage.transform import resize

one, other = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3))  # int64


def warned(metric, **options):
    """Tell whether a metric of the two int64 images warns."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metric(one, other, **options)
    return bool(caught)


def metrics(kind, **options):
    """Return SSIM and PSNR of the two images as a type of number."""
    first, second = one.astype(kind), other.astype(kind)
    similarity = structural_similarity(first, second, channel_axis=2, **options)
    return round(float(similarity), 3), round(float(peak_signal_noise_ratio(first, second, **options)), 1)


as_bytes, as_integers, with_range = metrics(np.uint8), metrics(np.int64), metrics(np.int64, data_range=255)
with warnings.catch_warnings(record=True) as of_resize:
    warnings.simplefilter("always")
    shrunk = float(resize(one, (32, 32)).max())
told = warned(structural_similarity, channel_axis=2), warned(peak_signal_noise_ratio), bool(of_resize)
print(f"scikit-image {skimage.__version__}; SSIM and PSNR of two images of noise, as int64")
print(f"guess: {as_bytes}, as of uint8, or an error")
print(f"seen:  {as_integers}; {with_range} with data_range=255; greatest value after resize {shrunk:.1e}")
print(f"       warnings of SSIM, PSNR and resize: {told}")
if told != (True, False, False):
    raise SystemExit("the behaviour has changed")
if as_integers[0] != 1 or as_integers[1] < 300 or with_range != as_bytes or as_bytes[0] > 0.2 or shrunk > 1e-10:
    raise SystemExit("the behaviour has changed")
PYTHON
