#!/usr/bin/env bash
# What happens: of scores 0.1, NaN and null, read from Parquet with dtype_backend="pyarrow", dropna() keeps the NaN, isna()
#   says False of it, mean() is NaN, and max() passes over it. With dtype_backend="numpy_nullable" the same file has two
#   missing scores, dropna() keeps one row and mean() is 0.1.
# Versions: pandas 3.1.1, pyarrow 26.0.1.
# Where: ArrowExtensionArray.isna in pandas/core/arrays/arrow/array.py asks Arrow for nulls, and NaN is none; the other
#   backend makes NA of NaN when it reads.
# Who meets it: a scorer writes NaN for an image that it could not judge. A script that calls dropna() on the scores
#   keeps these pairs after its author turned to Arrow's types for speed; comparisons with them then decide a label.
# Guess that was wrong: dropna() drops both, whatever the backend.
# Instead: write null in place of NaN, or filter by `scores.notna() & (scores == scores)`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pandas==3.1.1 pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import math

import pandas
import pyarrow as pa
import pyarrow.parquet as pq

pq.write_table(pa.table({"score_0": pa.array([0.1, float("nan"), None])}), "scores.parquet")
seen = {}
for backend in ("pyarrow", "numpy_nullable"):
    scores = pandas.read_parquet("scores.parquet", dtype_backend=backend)["score_0"]
    seen[backend] = (len(scores.dropna()), scores.isna().tolist(), float(scores.mean()), float(scores.max()))
print(f"pandas {pandas.__version__}, pyarrow {pa.__version__}; scores 0.1, NaN, null: rows after dropna, isna, mean, max")
print("guess: 1 row for both, NaN and null missing")
print(f"seen:  {seen}")
kept, missing, mean, greatest = seen["pyarrow"]
as_described = (kept, missing, greatest) == (2, [False, False, True], 0.1) and math.isnan(mean)
if not as_described or seen["numpy_nullable"] != (1, [False, True, True], 0.1, 0.1):
    raise SystemExit("the behaviour has changed")
PYTHON
