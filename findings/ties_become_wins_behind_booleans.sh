#!/usr/bin/env bash
# What happens: a folder has two Parquet files. In the first, label_0 is boolean, as it has no tie; in the second it is a
#   double with ties at 0.5. pyarrow, pandas, datasets and DuckDB read the folder without a word, and each tie is True: slot
#   0 has won. With integers in the first file pyarrow, pandas and datasets raise; DuckDB makes a tie 0: slot 0 has lost.
# Versions: pyarrow 26.0.1, pandas 3.1.1, datasets 5.2.0, duckdb 2.0.0.
# Where: each takes the first file's column type and casts the others to it. Arrow's safe cast refuses a truncated float
#   for integers, and for booleans it asks only whether the value is zero.
# Who meets it: pairs collected by an interface that had no button for ties at first; files of several annotators.
# Guess that was wrong: pyarrow, pandas and datasets raise for booleans, too. DuckDB was guessed rightly.
# Instead: compare the files' schemas first, or name the type (datasets' features=, DuckDB's union_by_name=true).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pyarrow==26.0.1 pandas==3.1.1 datasets==5.2.0 duckdb==2.0.0 numpy==2.4.6
cd "$folder"
export HF_HOME="$folder" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import logging
import os

import datasets
import duckdb
import pandas
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

datasets.disable_progress_bars()
logging.disable(logging.ERROR)  # datasets tells what it raises before it raises it


def read_by_each(first_labels, name):
    os.makedirs(name)
    pq.write_table(pa.table({"label_0": first_labels}), f"{name}/0.parquet")
    pq.write_table(pa.table({"label_0": [0.0, 0.5, 1.0]}), f"{name}/1.parquet")
    readers = {
        "pyarrow": lambda: pyarrow.dataset.dataset(name).to_table()["label_0"].to_pylist(),
        "pandas": lambda: pandas.read_parquet(name)["label_0"].tolist(),
        "datasets": lambda: datasets.load_dataset("parquet", data_dir=name, split="train")["label_0"][:],
        "duckdb": lambda: [row[0] for row in duckdb.sql(f"select label_0 from '{name}/*.parquet'").fetchall()],
        "duckdb union_by_name": lambda: [
            row[0] for row in duckdb.sql(f"from read_parquet('{name}/*.parquet', union_by_name=true)").fetchall()
        ],
    }
    seen = {}
    for reader, read in readers.items():
        try:
            seen[reader] = read()[-3:]
        except Exception as error:
            seen[reader] = type(error).__name__
    return seen


booleans = read_by_each([True, False], "booleans")
integers = read_by_each([1, 0], "integers")
print({package: importlib.metadata.version(package) for package in ("pyarrow", "pandas", "datasets", "duckdb")})
print("the second file's labels are 0.0, 0.5, 1.0")
print("guess: duckdb [False, True, True] and [0, 0, 1], the others raise for both")
print(f"seen behind booleans: {booleans}")
print(f"seen behind integers: {integers}")
tie_won = [False, True, True]
own = [0.0, 0.5, 1.0]
if booleans != dict.fromkeys(["pyarrow", "pandas", "datasets", "duckdb"], tie_won) | {"duckdb union_by_name": own}:
    raise SystemExit("the behaviour has changed")
raised = {"pyarrow": "ArrowInvalid", "pandas": "ArrowInvalid", "datasets": "DatasetGenerationError"}
if integers != raised | {"duckdb": [0, 0, 1], "duckdb union_by_name": own}:
    raise SystemExit("the behaviour has changed")
PYTHON
