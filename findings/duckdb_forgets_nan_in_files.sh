#!/usr/bin/env bash
# What happens: DuckDB counts NaN as the greatest number. In a Parquet file it may not see one: max(score) leaves NaN out,
#   isnan(score) finds no row, and score > 2 finds none where the other scores are below 2. score > 1 on the same file
#   finds the NaN row. The same table in memory has NaN as its maximum, and every filter finds the row.
# Versions: duckdb 2.0.0, pyarrow 26.0.1.
# Where: the statistics of a Parquet file's row groups leave NaN out, as the format asks; DuckDB answers from them, folds
#   isnan to false by them, or passes over a row group. A file written without statistics gives the answers of memory.
# Who meets it: who looks for images without a score (NaN), or for the greatest score, in files of scores.
# Guess that was wrong: a question has one answer, whether the rows lie in a file or in memory.
# Instead: ask for `not isfinite(score)`, which reads the rows.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check duckdb==2.0.0 pyarrow==26.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

memory = pa.table({"image": [1, 2, 3], "score": [1.5, float("nan"), 0.5]})
pq.write_table(memory, "scores.parquet")


def ask(what, where=""):
    answers = []
    for source in ("'scores.parquet'", "memory"):
        rows = duckdb.sql(f"select {what} from {source} {where}").fetchall()
        answers.append([value for (value,) in rows])
    return answers


greatest = [str(values[0]) for values in ask("max(score)")]
above_two = ask("image", "where score > 2")
above_one = [sorted(images) for images in ask("image", "where score > 1")]
nan = ask("image", "where isnan(score)")
not_finite = ask("image", "where not isfinite(score)")
print(f"duckdb {duckdb.__version__}, pyarrow {pa.__version__}")
print("guess: the file and the table in memory give the same answers")
print(f"seen:  max {greatest[0]} and {greatest[1]}; images above 2: {above_two[0]} and {above_two[1]}")
print(f"       images above 1: {above_one[0]} and {above_one[1]}; isnan: {nan[0]} and {nan[1]}")
print(f"       not isfinite: {not_finite[0]} and {not_finite[1]}")
seen = (greatest, above_two, above_one, nan, not_finite)
if seen != (["1.5", "nan"], [[], [2]], [[1, 2], [1, 2]], [[], [2]], [[2], [2]]):
    raise SystemExit("the behaviour has changed")
PYTHON
