#!/usr/bin/env bash
# What happens: Lance's update and merge_insert write the changed rows anew at the end of the table. After one score is
#   replaced, to_table() gives the rows in another order, and take(1) gives another pair: positions after the changed row
#   are one smaller. Its count and its contents are right.
# Versions: pylance 14.0.2.
# Where: both mark the old rows as deleted and append new ones as a fragment; take counts the rows that are left.
# Who meets it: latents, an order of a training run or a list of held-out pairs kept beside the table by position. A
#   scorer that corrects one score shifts all of them; nothing is refused, as the number of rows is the same.
# Guess that was wrong: rows keep their order and their place.
# Instead: look rows up by an id column (filter="pair_id = 1"), never by position after the table was written to.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pylance==14.0.2 pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import lance
import pyarrow as pa


def table(name):
    pairs = pa.table({"pair_id": [0, 1, 2, 3], "score_0": [0.1, 0.2, 0.3, 0.4]})
    return lance.write_dataset(pairs, name)


def order(data):
    return data.to_table()["pair_id"].to_pylist(), data.take([1])["pair_id"].to_pylist()


merged = table("merged.lance")
merged.merge_insert("pair_id").when_matched_update_all().execute(pa.table({"pair_id": [1], "score_0": [0.9]}))
updated = table("updated.lance")
updated.update({"score_0": "0.9"}, where="pair_id = 1")
seen = {"before": order(table("same.lance")), "merge_insert": order(merged), "update": order(updated)}
print(f"pylance {importlib.metadata.version('pylance')}; the score of pair 1 of 4 is replaced: all pairs, and take([1])")
print("guess: [0, 1, 2, 3] and [1] in each case")
print(f"seen:  {seen}")
moved = ([0, 2, 3, 1], [2])
if seen != {"before": ([0, 1, 2, 3], [1]), "merge_insert": moved, "update": moved}:
    raise SystemExit("the behaviour has changed")
PYTHON
