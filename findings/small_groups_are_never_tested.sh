#!/usr/bin/env bash
# What happens: Ray Data's train_test_split(0.1, stratify="category") of 200 rows in 25 categories of eight gives a test
#   set without a row: a tenth of each category is rounded down. With categories of 15 the test set has 6.7 % of the rows,
#   and they are the last of each category in the order of the table: nothing is shuffled.
# Versions: ray 2.60.0, pyarrow 26.0.1, numpy 2.4.6.
# Where: `Dataset._stratified_train_test_split` in ray/data/dataset.py: `int(n * test_size)` for each group, and a flag by
#   position. shuffle=True beside stratify is refused, and seed has no effect.
# Who meets it: held-out pairs by category, caption or model, where groups are small.
# Guess that was wrong: 20 rows, by chance, as scikit-learn's split draws them.
# Instead: random_shuffle first, and hold out by a hash of the caption.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "ray[data]==2.60.0" numpy==2.4.6 pyarrow==26.0.1 pandas==3.1.1
cd "$folder"
export RAY_USAGE_STATS_ENABLED=0
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import logging

import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
logging.getLogger("ray.data").setLevel(logging.ERROR)


def tested(categories, rows, seed=None):
    """Return the rows of the test set, as their places within their category."""
    data = ray.data.from_items([{"category": c, "place": p} for c in range(categories) for p in range(rows)])
    _, test = data.train_test_split(0.1, stratify="category", seed=seed)
    return [row["place"] for row in test.take_all()]


def refused():
    """Tell whether shuffle=True beside stratify is refused."""
    data = ray.data.from_items([{"category": row % 2} for row in range(20)])
    try:
        data.train_test_split(0.1, shuffle=True, stratify="category")
    except ValueError:
        return True
    return False


shuffle_refused = refused()
of_eight, of_fifteen, again = tested(25, 8), tested(10, 15), tested(10, 15, seed=7)
ray.shutdown()
print(f"ray {ray.__version__}; a tenth, stratified")
print("guess: 20 of 200 rows, and 15 of 150, at chance places")
print(f"seen:  {len(of_eight)} of 200 in categories of 8; {len(of_fifteen)} of 150 in categories of 15, at places "
      f"{sorted(set(of_fifteen))}, and {sorted(set(again))} with a seed")
print(f"       shuffle=True is refused: {shuffle_refused}")
if not shuffle_refused or of_eight or sorted(of_fifteen) != [14] * 10 or sorted(again) != [14] * 10:
    raise SystemExit("the behaviour has changed")
PYTHON
