#!/usr/bin/env bash
# What happens: datasets' class_encode_column gives ratings from 1 to 10 the classes 0, 2, 3, ... 9, 1: the best rating is
#   class 1, next to the worst. The column keeps its name, and its numbers look like ratings.
# Versions: datasets 5.2.0.
# Where: `Dataset.class_encode_column` in datasets/arrow_dataset.py turns the values into text and sorts that.
# Who meets it: ratings that are made classes for train_test_split(stratify_by_column=...), which asks for a ClassLabel,
#   and are then read as ratings or compared.
# Guess that was wrong: numbers are sorted as numbers, so class = rating - 1.
# Instead: keep the ratings in a column of their own, or `cast_column` to ClassLabel(names=[str(n) for n in range(11)]).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0
cd "$folder"
export HF_HOME="$folder/hub" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import datasets

ratings = list(range(1, 11))
encoded = datasets.Dataset.from_dict({"rating": ratings}).class_encode_column("rating")
classes = list(encoded["rating"])
print(f"datasets {datasets.__version__}; ratings {ratings}")
print(f"guess: classes {[rating - 1 for rating in ratings]}")
print(f"seen:  classes {classes}, names {encoded.features['rating'].names}")
if classes != [0, 2, 3, 4, 5, 6, 7, 8, 9, 1]:
    raise SystemExit("the behaviour has changed")
PYTHON
