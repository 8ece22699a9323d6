#!/usr/bin/env bash
# What happens: a streamed dataset that took up its place with load_state_dict begins every later pass at that place, too:
#   of six rows, resumed after the fourth, each pass gives the last two. Resumed from the end of an epoch it never gives
#   a row again. A state that is saved before the resumed dataset has given its first row is that of the beginning.
# Versions: datasets 5.2.0.
# Where: IterableDataset.load_state_dict in datasets/iterable_dataset.py only keeps the state; each pass of the same
#   epoch number loads it again, and only set_epoch changes this number. state_dict does not look at what was kept.
# Who meets it: a training loop over a streamed source of pairs that runs several epochs and resumes in one of them:
#   `for epoch in range(n): for pair in data:`. It trains on the end of the source alone from then on. A job that is
#   stopped again while it starts overwrites its place with the beginning.
# Guess that was wrong: the state is the one just loaded (written down before the run). That later passes are cut was not
#   thought of; it was seen in the source, and then run.
# Instead: call set_epoch(epoch) before each pass, also without a shuffle, and save no state before the first row.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
export HF_HOME="$folder" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - <<'PYTHON'
import datasets
from datasets import Dataset


def streamed():
    return Dataset.from_dict({"pair": list(range(6))}).to_iterable_dataset()


def one_pass(data):
    return [row["pair"] for row in data]


def resumed(state):
    data = streamed()
    data.load_state_dict(state)
    return data


first = streamed()
rows = iter(first)
for _ in range(4):
    next(rows)
middle = first.state_dict()
data = resumed(middle)
passes = [one_pass(data) for _ in range(3)]
data.set_epoch(1)
after_set_epoch = one_pass(data)

whole = streamed()
one_pass(whole)
from_the_end = resumed(whole.state_dict())
empty = [one_pass(from_the_end) for _ in range(2)]

saved_at_once = one_pass(resumed(resumed(middle).state_dict()))

print(f"datasets {datasets.__version__}; six rows, resumed after the fourth")
print("guess: [4, 5], then whole passes; a state saved at once gives [4, 5]")
print(f"seen:  three passes {passes}; after set_epoch(1) {after_set_epoch}")
print(f"       resumed from the end, two passes: {empty}")
print(f"       saved right after it was loaded, and loaded anew: {saved_at_once}")
six = [0, 1, 2, 3, 4, 5]
if passes != [[4, 5]] * 3 or after_set_epoch != six or empty != [[], []] or saved_at_once != six:
    raise SystemExit("the behaviour has changed")
PYTHON
