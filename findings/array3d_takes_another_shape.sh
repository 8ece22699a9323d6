#!/usr/bin/env bash
# What happens: a column Array3D(shape=(4, 6, 4)) takes a latent of shape (4, 4, 6) without a word and gives it back as
#   (4, 6, 4): the same numbers in rows of another length, which is no transposed picture but a torn one. It raises only
#   if the number of elements differs.
# Versions: datasets 5.2.0.
# Where: to_numpy in datasets/features/features.py reshapes the flat numbers to the feature's shape; nothing compares it
#   with the array's own.
# Who meets it: latents of several shapes (buckets) under one feature: landscape and portrait have as many elements, so a
#   latent of the wrong bucket, or height and width swapped in the feature, is trained on in pieces.
# Guess that was wrong: an error names both shapes. (The probe was written to catch it; nobody wrote the guess down.)
# Instead: compare array.shape with the feature's before adding a row.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
export HF_HOME="$folder" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - <<'PYTHON'
import datasets
import numpy as np
from datasets import Array3D, Dataset, Features

datasets.disable_progress_bars()
landscape = np.arange(96, dtype=np.float32).reshape(4, 4, 6)
features = Features({"latents": Array3D(shape=(4, 6, 4), dtype="float32")})


def rows():
    yield {"latents": landscape}


def shape_and_first_rows(make):
    try:
        latents = make().with_format("numpy")[0]["latents"]
    except Exception as error:
        return type(error).__name__
    return latents.shape, latents[0, :2].tolist()


whole = Dataset.from_dict({"row": [0]})
seen = {
    "from_dict": shape_and_first_rows(lambda: Dataset.from_dict({"latents": [landscape]}, features=features)),
    "from_generator": shape_and_first_rows(lambda: Dataset.from_generator(rows, features=features)),
    "map": shape_and_first_rows(
        lambda: whole.map(lambda row: {"latents": landscape}, features=features, remove_columns="row")
    ),
}
other_size = shape_and_first_rows(lambda: Dataset.from_dict({"latents": [landscape[:3]]}, features=features))
print(f"datasets {datasets.__version__}; a latent of shape (4, 4, 6) for Array3D(shape=(4, 6, 4))")
print("guess: an error")
print(f"seen:  {seen}; rows 0 and 1 of the latent itself: {landscape[0, :2].tolist()}")
print(f"       with another number of elements: {other_size}")
torn = ((4, 6, 4), [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]])
if seen != dict.fromkeys(seen, torn) or not isinstance(other_size, str):
    raise SystemExit("the behaviour has changed")
PYTHON
