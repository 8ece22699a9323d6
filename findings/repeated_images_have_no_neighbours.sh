#!/usr/bin/env bash
# What happens: prdc's precision and density of exact copies of real images are 0 where each real image stands six times
#   in the set; coverage is 0 as well. Where each stands once all three are 1. A real image's neighbourhood reaches to its
#   fifth nearest, which is itself, so its radius is 0, and a distance of 0 is not below it.
# Versions: prdc 0.2, scikit-learn 1.9.1, numpy 2.4.6.
# Where: `compute_prdc` in prdc/prdc.py compares with `<`, and `compute_nearest_neighbour_distances` counts equal rows.
# Who meets it: true images taken out of preference pairs, where one image stands in many pairs, or one row for each of
#   an image's captions.
# Guess that was wrong: copies of real images have precision 1, however often these stand in the set.
# Instead: features of each image once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check prdc==0.2 scikit-learn==1.9.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import importlib.metadata
import io

import numpy as np
from prdc import compute_prdc

features = np.random.default_rng(0).normal(size=(50, 16))


def measured(times):
    """Return the measures of the real images' copies, where each real image stands so many times in its set."""
    with contextlib.redirect_stdout(io.StringIO()):
        found = compute_prdc(real_features=np.repeat(features, times, axis=0), fake_features=features, nearest_k=5)
    return {name: round(float(found[name]), 2) for name in ("precision", "recall", "density", "coverage")}


once, six_times = measured(1), measured(6)
print(f"prdc {importlib.metadata.version('prdc')}; 50 images and copies of them, nearest_k=5")
print(f"guess: {once}, however often each real image stands there")
print(f"seen:  {once} once; {six_times} six times")
if once["precision"] != 1 or any(six_times[name] for name in ("precision", "density", "coverage")):
    raise SystemExit("the behaviour has changed")
PYTHON
