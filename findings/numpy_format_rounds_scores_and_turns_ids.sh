#!/usr/bin/env bash
# What happens: `with_format("numpy")` of a datasets table gives float64 columns as float32, and uint64 columns as
#   int64: ids of 2^63 or more become negative, without a warning. One row (`rows[0]["score"]`) still has float64 and
#   uint64; a slice or a column of the same rows has not. The format "torch" does the same to a slice.
# Versions: datasets 5.2.0, numpy 2.4.6, torch 2.13.0.
# Where: `NumpyFormatter._tensorize` in datasets/formatting/np_formatter.py: arrays take int64 and float32, single
#   numbers stay as they are.
# Who meets it: pair ids are hashes, for example xxhash's 64 bits: half of them no longer equal their own keys. Two
#   scores of a judge that differ by less than one part in 16 million become a tie; seconds since 1970 lose up to 64 of
#   them.
# Guess that was wrong: the numpy format has the columns' own types.
# Instead: `with_format("numpy", dtype=None)` and the format "arrow" keep the types.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 numpy==2.4.6 \
  torch==2.13.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import datasets
import numpy as np

ids = np.array([2**63 + 5, 7], np.uint64)
scores = np.array([0.25, 0.25 + 1e-9])
rows = datasets.Dataset.from_dict({"id": ids, "score": scores})
whole = rows.with_format("numpy")[:]
one = rows.with_format("numpy")[0]
tensors = rows.with_format("torch")[:]
print(f"datasets {datasets.__version__}; types {rows.features['id'].dtype} and {rows.features['score'].dtype}")
print(f"guess: {ids.dtype} {ids.tolist()}; {scores.dtype}, the second score higher: {scores[1] > scores[0]}")
higher = whole["score"][1] > whole["score"][0]
print(f"seen:  {whole['id'].dtype} {whole['id'].tolist()}; {whole['score'].dtype}, the second score higher: {higher}")
print(f"       one row: {one['id'].dtype}, {one['score'].dtype}")
print(f"       torch: {tensors['id'][0].item()}, {tensors['score'].dtype}")
arrow = rows.with_format("arrow")[:]
kept = rows.with_format("numpy", dtype=None)[:]
seen = (str(whole["id"].dtype), str(whole["score"].dtype), str(one["id"].dtype), str(one["score"].dtype))
if seen != ("int64", "float32", "uint64", "float64") or whole["id"][0] >= 0:
    raise SystemExit("the behaviour has changed")
if arrow["id"][0].as_py() != 2**63 + 5 or kept["id"][0] != 2**63 + 5 or str(kept["score"].dtype) != "float64":
    raise SystemExit("the behaviour has changed")
PYTHON
