#!/usr/bin/env bash
# What happens: an identity function in Ray Data's map_batches gives the 60-bit ids of a batch as floats where one of them
#   is null: ids that differ in their last digits become one number, as integers again by a later cast. Batches without
#   a null keep theirs.
# Versions: ray 2.60.0, pyarrow 26.0.1, numpy 2.4.6.
# Where: the default batch_format is "numpy", and `to_numpy` of ray/data/_internal/arrow_ops/transform_pyarrow.py leaves
#   the type to pyarrow, which has no other place for a null.
# Who meets it: pair ids, prompt ids or seeds of 64 bits in a column that lacks one value. Joined by them, rows find the
#   wrong partner or none.
# Guess that was wrong: rows that the function does not touch come back as they were, or None makes the column objects.
# Instead: batch_format="pyarrow" or "pandas", or `map`, which keep the ids; or no nulls in ids.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "ray[data]==2.60.0" numpy==2.4.6 pyarrow==26.0.1 pandas==3.1.1
cd "$folder"
export RAY_USAGE_STATS_ENABLED=0
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import logging

import pyarrow as pa
import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
logging.getLogger("ray.data").setLevel(logging.ERROR)
ids = [2**60 + 1, 2**60 + 3, None]


def through(values, **options):
    """Return ids that went through an identity function as one batch."""
    data = ray.data.from_arrow(pa.table({"pair_id": pa.array(values, pa.int64())}))
    return [row["pair_id"] for row in data.map_batches(lambda batch: batch, **options).take_all()]


whole, broken = through(ids[:2]), through(ids)
others = {name: through(ids, batch_format=name) for name in ("pandas", "pyarrow")}
mapped = [row["pair_id"] for row in
          ray.data.from_arrow(pa.table({"pair_id": pa.array(ids, pa.int64())})).map(lambda row: row).take_all()]
captions = ray.data.from_arrow(pa.table({"caption": ["a cat", None]})).map_batches(lambda batch: batch).take_all()
ray.shutdown()
print(f"ray {ray.__version__}; ids {ids}")
print(f"guess: {ids}")
print(f"seen:  {broken}; {whole} without the null; {others}, {mapped} by map")
print(f"       captions {[row['caption'] for row in captions]}")
if whole != ids[:2] or broken[0] != broken[1] or not isinstance(broken[0], float):
    raise SystemExit("the behaviour has changed")
if mapped != ids or any(values != ids for values in others.values()):
    raise SystemExit("the behaviour has changed")
PYTHON
