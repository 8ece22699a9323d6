#!/usr/bin/env bash
# What happens: DuckDB reads a CSV whose labels are 0 and 1 in the first 60,000 rows and 0.5 in the last 10,000. The column
#   becomes BIGINT, and each 0.5 becomes 1, without a word: every tie is a win of slot 0. Of the same labels in Parquet,
#   behind a file of integers, each tie becomes 0, a win of slot 1. pandas reads the CSV rightly; Polars raises.
# Versions: duckdb 2.0.0, polars 2.1.0, pandas 3.1.1, pyarrow 26.0.1.
# Where: the sniffer takes a type from the first 20,480 rows (sample_size). Later values are cast as texts are cast to
#   integers, which rounds 0.5 up; a double is cast to an integer by rounding half to even.
# Who meets it: exported comparisons that are sorted by day or by rater, with ties allowed later.
# Guess that was wrong: an error that 0.5 is no BIGINT. (That a double in Parquet becomes 0 was guessed rightly.)
# Instead: read_csv(..., types={'label_0': 'DOUBLE'}), or sample_size=-1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check duckdb==2.0.0 polars==2.1.0 pandas==3.1.1 pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq

labels = [row % 2 for row in range(60_000)] + [0.5] * 10_000
with open("pairs.csv", "w") as file:
    file.write("pair_id,label_0\n")
    file.writelines(f"{row},{label}\n" for row, label in enumerate(labels))
os.makedirs("parquet")
pq.write_table(pa.table({"label_0": [0, 1]}), "parquet/0.parquet")
pq.write_table(pa.table({"label_0": [0.5, 0.5]}), "parquet/1.parquet")


def counted(source):
    counts = duckdb.sql(f"select label_0, count(*) from {source} group by label_0 order by label_0").fetchall()
    return {float(label): count for label, count in counts}


csv = counted("'pairs.csv'")
typed = counted("read_csv('pairs.csv', types={'label_0': 'DOUBLE'})")
whole_sample = counted("read_csv('pairs.csv', sample_size=-1)")
parquet = counted("'parquet/*.parquet'")
by_pandas = pandas.read_csv("pairs.csv")["label_0"].value_counts().to_dict()
try:
    by_polars = polars.read_csv("pairs.csv")["label_0"].dtype
except Exception as error:
    by_polars = type(error).__name__
print(f"duckdb {duckdb.__version__}; 30,000 labels 0, 30,000 labels 1, then 10,000 ties")
print("guess: an error")
print(f"seen:  {csv}; with types= {typed}; with sample_size=-1 {whole_sample}")
print(f"       two ties in Parquet behind a 0 and a 1 as integers: {parquet}")
print(f"       pandas {by_pandas}, polars {by_polars}")
right = {0.0: 30_000, 0.5: 10_000, 1.0: 30_000}
if csv != {0.0: 30_000, 1.0: 40_000} or parquet != {0.0: 3, 1.0: 1} or by_polars != "ComputeError":
    raise SystemExit("the behaviour has changed")
if typed != right or whole_sample != right or by_pandas != right:
    raise SystemExit("the behaviour has changed")
PYTHON
