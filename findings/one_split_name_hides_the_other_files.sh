#!/usr/bin/env bash
# What happens: where the name of one file of a folder has a word of a split in it (train, test, eval, dev, val, ...),
#   `load_dataset(folder)` takes only the files with such words. All other files of the folder are left out, without a
#   word, and there is no split `train`.
# Versions: datasets 5.2.0, pyarrow 26.0.1.
# Where: datasets/data_files.py tries patterns by keyword first, and takes all files as `train` only if none matches.
# Who meets it: `pairs.parquet` with `pairs-eval.parquet` beside it: the training pairs are gone, and a script that reads
#   every split it is given trains on the held-out ones. `human.parquet` goes the same way beside `my_dev.parquet`.
# Guess that was wrong: the file with the word becomes that split, and the rest is `train`.
# Instead: name the files: load_dataset("parquet", data_files={"train": ..., "test": ...}).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1
cd "$folder"
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

datasets.disable_progress_bars()


def splits(*names):
    """Return the files whose rows are in each split of a folder of such files."""
    folder = Path("-".join(name.split(".")[0] for name in names))
    folder.mkdir()
    for name in names:
        pq.write_table(pa.table({"file": [name]}), folder / name)
    return {split: sorted(rows["file"]) for split, rows in datasets.load_dataset(str(folder)).items()}


alone = splits("pairs.parquet", "more.parquet")
beside = splits("pairs.parquet", "pairs-eval.parquet")
others = splits("human.parquet", "pickscore.parquet", "my_dev.parquet")
print(f"datasets {datasets.__version__}")
print("guess: pairs.parquet is train in both")
print(f"seen:  pairs and more:               {alone}")
print(f"       pairs and pairs-eval:         {beside}")
print(f"       human, pickscore and my_dev:  {others}")
if alone != {"train": ["more.parquet", "pairs.parquet"]}:
    raise SystemExit("the behaviour has changed")
if beside != {"test": ["pairs-eval.parquet"]} or others != {"validation": ["my_dev.parquet"]}:
    raise SystemExit("the behaviour has changed")
PYTHON
