#!/usr/bin/env bash
# What happens: the two ways from a fixed-size list column of pyarrow to numpy are both wrong in their own case.
#   flatten() leaves null rows out, so reshape(-1, n) gives fewer rows and every row after a null is another's.
#   values keeps null rows but ignores a slice, so a slice's rows are the table's first rows.
# Versions: pyarrow 26.0.1.
# Where: FixedSizeListArray.flatten and .values in pyarrow/array.pxi.
# Who meets it: latents are stored so. A store that also lists ties or refused rows has nulls in that column, and
#   batches of a table are slices. Both mistakes give latents of the right shape under the wrong pair.
# Guess that was wrong: flatten keeps a null row's places (it is fixed-size), and values belongs to the slice.
# Instead: drop null rows first (column.drop_null()), then flatten and reshape with the length written out, so that a
#   missing row raises.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import pyarrow as pa

rows = [[0.0, 0.0], None, [2.0, 2.0], [3.0, 3.0]]
column = pa.array(rows, type=pa.list_(pa.float32(), 2))
flat = column.flatten().to_numpy().reshape(-1, 2)
sliced = column[2:].values.to_numpy(zero_copy_only=False).reshape(-1, 2)

print(f"pyarrow {pa.__version__}, numpy {np.__version__}; rows {rows}")
print("guess: row 2 of flatten is [2, 2]; row 0 of the values of column[2:] is [2, 2]")
print(f"seen:  flatten has {len(flat)} rows, row 2 is {flat[2].tolist()}")
print(f"       values of column[2:] has {len(sliced)} rows, row 0 is {sliced[0].tolist()}")
if flat[2].tolist() != [3.0, 3.0] or sliced[0].tolist() != [0.0, 0.0] or len(sliced) != 4:
    raise SystemExit("the behaviour has changed")
PYTHON
