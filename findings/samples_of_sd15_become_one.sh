#!/usr/bin/env bash
# What happens: webdataset's own writer takes the keys "sd1.5_0001", "sd1.5_0002" and so on, and its reader gives one
#   sample for all of them. The key ends at the first dot: it is "sd1", and the rest of the name is the field,
#   "5_0001.txt". The loader of datasets reads the shard in the same way, as one row with a column for each file.
# Versions: webdataset 1.0.2, datasets 5.2.0.
# Where: `base_plus_ext` in webdataset/tariterators.py; `TarWriter.write` in webdataset/writer.py does not look at the
#   key.
# Who meets it: keys that have a model's name (sd1.5, sd3.5, FLUX.1), a guidance scale (cfg7.5) or a file's whole
#   name.
# Guess that was wrong: what the writer takes, the reader gives back.
# Instead: `key.replace(".", "_")`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check webdataset==1.0.2 datasets==5.2.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import datasets
import webdataset

datasets.disable_progress_bars()
COUNT = 20


def read(name):
    """Write samples of a model under its name; return how many each reader finds, and the first one's keys."""
    with webdataset.TarWriter(f"{name}.tar") as shard:
        for number in range(COUNT):
            shard.write({"__key__": f"{name}_{number:04}", "txt": f"caption {number}", "cls": number % 2})
    samples = list(webdataset.WebDataset(f"{name}.tar", shardshuffle=False))
    rows = datasets.load_dataset("webdataset", data_files=f"{name}.tar", split="train", cache_dir="cache")
    return len(samples), len(rows), [key for key in samples[0] if not key.startswith("__")][:3]


dotted, plain = read("sd1.5"), read("sd1_5")
print(f"webdataset {webdataset.__version__}, datasets {datasets.__version__}; {COUNT} samples of sd1.5")
print(f"guess: {COUNT} samples, each with txt and cls")
print(f"seen:  {dotted[0]} sample in webdataset, {dotted[1]} row in datasets, with {', '.join(dotted[2])}, ...")
print(f"       {plain[0]} and {plain[1]} of sd1_5, with {', '.join(plain[2])}")
if dotted[:2] != (1, 1) or plain[:2] != (COUNT, COUNT):
    raise SystemExit("the behaviour has changed")
PYTHON
