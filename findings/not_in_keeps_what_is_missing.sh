#!/usr/bin/env bash
# What happens: of pairs whose model is "a", "b" or null, the filter ("model", "!=", "a") gives only "b", and
#   ("model", "not in", ["a"]) gives "b" and the row without a model. So in pyarrow, pandas and datasets, which all read
#   Parquet with these filters. In DuckDB and Polars both forms leave the null row out.
# Versions: pyarrow 26.0.1, pandas 3.1.1, datasets 5.2.0, duckdb 2.0.0, polars 2.1.0.
# Where: filters_to_expression in pyarrow/parquet/core.py. A comparison with null is null, so the row is dropped; is_in
#   answers false for null, and its inverse is true.
# Who meets it: who leaves some models' images out, or some raters' votes, where a part of the rows does not say whose
#   they are: with one name in the list, the two spellings of one question keep different training sets.
# Guess that was wrong: both drop rows without a model, in every reader.
# Instead: say what becomes of null: `(field("model") != "a") | field("model").is_null()`, or `is_valid()`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pyarrow==26.0.1 pandas==3.1.1 datasets==5.2.0 duckdb==2.0.0 polars==2.1.0 numpy==2.4.6
cd "$folder"
export HF_HOME="$folder" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import datasets
import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq

datasets.disable_progress_bars()
pq.write_table(pa.table({"pair_id": [0, 1, 2], "model": ["a", "b", None]}), "pairs.parquet")


def from_datasets(filters):
    rows = datasets.load_dataset("parquet", data_files="pairs.parquet", split="train", filters=filters)
    return rows["pair_id"][:]


def both(read, unequal, not_in):
    return read(unequal), read(not_in)


unequal, not_in = [("model", "!=", "a")], [("model", "not in", ["a"])]
model = polars.col("model")
seen = {
    "pyarrow": both(lambda f: pq.read_table("pairs.parquet", filters=f)["pair_id"].to_pylist(), unequal, not_in),
    "pandas": both(lambda f: pandas.read_parquet("pairs.parquet", filters=f)["pair_id"].tolist(), unequal, not_in),
    "datasets": both(from_datasets, unequal, not_in),
    "duckdb": both(
        lambda f: [row[0] for row in duckdb.sql(f"select pair_id from 'pairs.parquet' where {f}").fetchall()],
        "model != 'a'",
        "model not in ('a')",
    ),
    "polars": both(
        lambda f: polars.read_parquet("pairs.parquet").filter(f)["pair_id"].to_list(), model != "a", ~model.is_in(["a"])
    ),
}
print({name: importlib.metadata.version(name) for name in seen})
print('guess: pair 1 alone for != "a" and for not in ["a"], in each')
print(f"seen:  {seen}")
keeps = ([1], [1, 2])
drops = ([1], [1])
expected = {"pyarrow": keeps, "pandas": keeps, "datasets": keeps, "duckdb": drops, "polars": drops}
if seen != expected:
    raise SystemExit("the behaviour has changed")
PYTHON
