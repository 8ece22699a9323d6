#!/usr/bin/env bash
# What happens: `Dataset.from_generator(read, gen_kwargs={"path": path})` reads the file once. After the file has
#   changed the same call, in a later process too, gives the rows of the first time. `from_json` sees the change.
# Versions: datasets 5.2.0.
# Where: the cache is named by a hash of the function and its arguments, here the path's text
#   (datasets/packaged_modules/generator).
# Who meets it: labels that a scorer writes again, or a list of pairs that grows: the run trains on the old ones, and
#   says only "Generating train split" the first time, and nothing the second.
# Guess that was wrong: a generator is run at each call, as nothing can know what it reads.
# Instead: the file's hash or time among the gen_kwargs, `fingerprint=`, or `IterableDataset.from_generator`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import json
import pathlib

import datasets
from datasets import Dataset

datasets.disable_progress_bars()
path = pathlib.Path("labels.jsonl")


def read(path):
    """Yield a file's rows."""
    for line in path.read_text().splitlines():
        yield json.loads(line)


def labels(make):
    """Write one label, then another, and return what the same call gives after each."""
    found = []
    for label in (0.0, 1.0):
        path.write_text(json.dumps({"pair_id": 7, "label_0": label}))
        found.append(make()[0]["label_0"])
    return found


generated = labels(lambda: Dataset.from_generator(read, gen_kwargs={"path": path}, cache_dir="cache"))
opened = labels(lambda: Dataset.from_json(str(path), cache_dir="cache"))
streamed = labels(lambda: list(datasets.IterableDataset.from_generator(read, gen_kwargs={"path": path})))
print(f"datasets {datasets.__version__}; a file says 0.0, and then 1.0")
print("guess: [0.0, 1.0] from_generator, [0.0, 1.0] from_json")
print(f"seen:  {generated} from_generator, {opened} from_json, {streamed} IterableDataset.from_generator")
if generated != [0.0, 0.0] or opened != [0.0, 1.0] or streamed != [0.0, 1.0]:
    raise SystemExit("the behaviour has changed")
PYTHON
