#!/usr/bin/env bash
# What happens: datasets' to_parquet of a folder of images that load_dataset("imagefolder") opened writes the paths on this
#   machine and no images: a few bytes a row. save_to_disk of the same dataset takes the images in, and to_parquet of what
#   load_from_disk then opens has them. Once the folder is gone, the first file's image cannot be read, and the others' can.
# Versions: datasets 5.2.0, pillow 13.0.0, pyarrow 26.0.1.
# Where: `ParquetDatasetWriter` in datasets/io/parquet.py writes the table as it is; `embed_table_storage`, which reads the
#   files, is called by save_to_disk and push_to_hub alone.
# Who meets it: preference pairs that are made as a folder of images and handed on as Parquet.
# Guess that was wrong: a column of type Image holds the images in Parquet, as sets on the Hub do.
# Instead: `dataset.with_format("arrow").map(datasets.table.embed_table_storage, batched=True)` before to_parquet.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 pillow==13.0.0 pyarrow==26.0.1
cd "$folder"
export HF_HOME="$folder/hub" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import os
from pathlib import Path

import datasets
import pyarrow.parquet as pq
from PIL import Image

os.makedirs("images")
Image.new("RGB", (64, 64), (1, 2, 3)).save("images/star.png")
Path("images/metadata.csv").write_text("file_name,caption\nstar.png,a star\n")
size = os.path.getsize("images/star.png")


def written(dataset, name):
    """Return how many bytes of its image a dataset's Parquet has."""
    dataset.to_parquet(name)
    return len(pq.read_table(name)["image"][0].as_py()["bytes"] or b"")


opened = datasets.load_dataset("imagefolder", data_dir="images", split="train")
plain = written(opened, "plain.parquet")
opened.save_to_disk("saved")
saved = written(datasets.load_from_disk("saved"), "saved.parquet")
embedded = written(opened.with_format("arrow").map(datasets.table.embed_table_storage, batched=True), "embedded.parquet")
os.rename("images", "gone")


def readable(name):
    """Tell whether the image of a Parquet file opens after its folder is gone."""
    try:
        datasets.Dataset.from_parquet(name)[0]["image"].load()
    except FileNotFoundError:
        return False
    return True


opens = [readable(name) for name in ("plain.parquet", "saved.parquet", "embedded.parquet")]
print(f"datasets {datasets.__version__}; bytes of an image of {size} bytes in Parquet")
print(f"guess: {size}")
print(f"seen:  {plain}; {saved} after save_to_disk, {embedded} after embed_table_storage")
print(f"       the image opens once its folder is gone: {opens}")
if (plain, saved, embedded) != (0, size, size) or opens != [False, True, True]:
    raise SystemExit("the behaviour has changed")
PYTHON
