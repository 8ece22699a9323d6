#!/usr/bin/env bash
# What happens: `load_dataset("webdataset", ...)` takes the columns from the first five samples of the shard. What
#   only later samples have, here their caption, is left out of all rows, without a warning, streamed or not.
# Versions: datasets 5.2.0, webdataset 1.0.2.
# Where: `NUM_EXAMPLES_FOR_FEATURES_INFERENCE` in datasets/packaged_modules/webdataset/webdataset.py.
# Who meets it: shards in which not every picture has all its files: a caption, a mask, a second judge's score. Sorted
#   keys put such samples together, for example those of one source.
# Guess that was wrong: a column that is in some sample is there, null where a sample has none.
# Instead: `features=` with all columns, or an empty file for each sample that lacks one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 webdataset==1.0.2 \
  Pillow==13.0.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import datasets
import webdataset

datasets.disable_progress_bars()
with webdataset.TarWriter("pairs.tar") as shard:
    for number in range(100):
        sample = {"__key__": f"{number:03}", "label.cls": number % 2}
        if number >= 5:
            sample["txt"] = f"caption {number}"
        shard.write(sample)
stored = sum("txt" in sample for sample in webdataset.WebDataset("pairs.tar", shardshuffle=False))
rows = datasets.load_dataset("webdataset", data_files="pairs.tar", split="train", cache_dir="cache")
stream = datasets.load_dataset("webdataset", data_files="pairs.tar", split="train", streaming=True)
captions = sum("txt" in row for row in rows)
streamed = sum("txt" in row for row in stream)
print(f"datasets {datasets.__version__}, webdataset {webdataset.__version__}; 100 samples, the first 5 without text")
print("guess: 95 captions in 100 rows")
print(f"seen:  {captions} captions in {len(rows)} rows, {streamed} when streamed; webdataset finds {stored}")
print(f"       columns: {', '.join(rows.column_names)}")
if (captions, streamed, len(rows), stored) != (0, 0, 100, 95):
    raise SystemExit("the behaviour has changed")
PYTHON
