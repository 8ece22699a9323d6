#!/usr/bin/env bash
# What happens: of scores with one NaN, Ray Data's Dataset.mean and sum return None, as they do for a column without any
#   value; max passes over the NaN. With null in place of NaN the mean is that of the other scores. With
#   ignore_nulls=False the mean is NaN.
# Versions: ray 2.60.0, numpy 2.4.6, pyarrow 26.0.1.
# Where: ray/data/aggregate.py: its is_null holds of None and of NaN, and a sum that is NaN is taken for one without values.
# Who meets it: a scorer wrote NaN for one image. The mean score of a checkpoint is None, and code that reads this as "no
#   scores yet", or writes `mean or 0.0`, goes on without a word.
# Guess that was wrong: the mean is NaN.
# Instead: turn NaN into null first, or ignore_nulls=False, which gives NaN.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "ray[data]==2.60.0" numpy==2.4.6 pyarrow==26.0.1
cd "$folder"
export RAY_USAGE_STATS_ENABLED=0
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import math

import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
logging.getLogger("ray.data").setLevel(logging.ERROR)


def scores(fourth):
    rows = [1.0, 1.0, 1.0, fourth, 0.0, 0.0, 0.0, 0.0]
    return ray.data.from_items([{"score": score} for score in rows])


def statistics(fourth):
    data = scores(fourth)
    return data.mean("score"), data.sum("score"), data.max("score")


with_nan, with_null = statistics(math.nan), statistics(None)
kept = scores(math.nan).mean("score", ignore_nulls=False)
ray.shutdown()
print(f"ray {ray.__version__}; scores 1, 1, 1, NaN, 0, 0, 0, 0: mean, sum, max")
print("guess: nan, nan")
print(f"seen:  {with_nan}; with null in place of NaN {with_null}; mean with ignore_nulls=False {kept}")
if with_nan != (None, None, 1.0) or with_null != (3 / 7, 3.0, 1.0) or not math.isnan(kept):
    raise SystemExit("the behaviour has changed")
PYTHON
