#!/usr/bin/env bash
# What happens: what Ray Data writes by write_parquet(partition_cols=["model"]) and reads by read_parquet has the text
#   "__HIVE_DEFAULT_PARTITION__" where the model was null: a model of that name, which no null count finds, and which wins
#   and loses like the others. pyarrow's dataset of the same folder gives null.
# Versions: ray 2.60.0, pyarrow 26.0.1, numpy 2.4.6.
# Where: pyarrow's writer names the folder of nulls so; `PathPartitionParser._parse_hive_path` in
#   ray/data/datasource/partitioning.py decodes names and leaves this one as it is.
# Who meets it: win rates or pairs by model of a partitioned table, where some rows have no model, such as a photograph.
# Guess that was wrong: null comes back as null, since the same library wrote it.
# Instead: fill nulls by a word of your own before writing, or read by pyarrow's dataset.
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
import pyarrow.dataset
import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
logging.getLogger("ray.data").setLevel(logging.ERROR)
rows = pa.table({"model": ["org/one", None, "two"], "score": [1.0, 2.0, 3.0]})
ray.data.from_arrow(rows).write_parquet("scores", partition_cols=["model"])
seen = {row["score"]: row["model"] for row in ray.data.read_parquet("scores").take_all()}
ray.shutdown()
table = pyarrow.dataset.dataset("scores", partitioning="hive").to_table()
arrows = dict(zip(table["score"].to_pylist(), table["model"].to_pylist(), strict=True))
print(f"ray {ray.__version__}; models org/one, null and two as partitions")
print("guess: null comes back as None")
print(f"seen:  {seen}; pyarrow's dataset {arrows}")
if seen != {1.0: "org/one", 2.0: "__HIVE_DEFAULT_PARTITION__", 3.0: "two"} or arrows[2.0] is not None:
    raise SystemExit("the behaviour has changed")
PYTHON
