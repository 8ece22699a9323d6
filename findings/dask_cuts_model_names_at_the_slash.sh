#!/usr/bin/env bash
# What happens: dask writes a table partitioned by the models' names, and does not escape them in the folders' names. Of
#   "stabilityai/sdxl" and "stabilityai/sd3" the part behind the slash becomes a folder below; pyarrow, pandas and Polars
#   read "stabilityai" for both, without a word. pandas' own to_parquet writes %2F, and all three read the whole names.
# Versions: dask 2026.8.0, pandas 3.1.1, pyarrow 26.0.1, polars 2.1.0.
# Where: dask's to_parquet with partition_on; its source was not traced. Readers of hive folders take as the name what stands
#   between "=" and the next slash.
# Who meets it: win rates by model: all models of one organisation on the Hub become one model.
# Guess that was wrong: dask's folders are read as any other's, each name whole.
# Instead: replace the slash before writing, or keep the model as a column.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "dask[dataframe]==2026.8.0" pandas==3.1.1 pyarrow==26.0.1 polars==2.1.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import dask
import dask.dataframe
import pandas
import polars
import pyarrow.dataset

images = pandas.DataFrame({"image": [0, 1, 2], "model": ["stabilityai/sdxl", "stabilityai/sd3", "playground"]})
dask.dataframe.from_pandas(images, npartitions=1).to_parquet("dask", partition_on=["model"])
images.to_parquet("pandas", partition_cols=["model"])


def models(folder):
    table = pyarrow.dataset.dataset(folder, partitioning="hive").to_table()
    by_polars = polars.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=True)["model"].to_list()
    by_pandas = pandas.read_parquet(folder)["model"].astype(str).tolist()
    return {"pyarrow": sorted(table["model"].to_pylist()), "pandas": sorted(by_pandas), "polars": sorted(by_polars)}


seen = {writer: models(writer) for writer in ("dask", "pandas")}
print(f"dask {dask.__version__}, pandas {pandas.__version__}; images of {sorted(images['model'])}")
print("guess: these names, whoever wrote the folders")
print(f"seen:  {seen}")
readers = ("pyarrow", "pandas", "polars")
cut = dict.fromkeys(readers, ["playground", "stabilityai", "stabilityai"])
if seen != {"dask": cut, "pandas": dict.fromkeys(readers, sorted(images["model"]))}:
    raise SystemExit("the behaviour has changed")
PYTHON
