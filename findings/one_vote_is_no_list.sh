#!/usr/bin/env bash
# What happens: Ray Data's read_webdataset gives the list of a JSON member as a number where it has one element: votes [1]
#   are read as 1, votes [1, 0] as a list.
# Versions: ray 2.60.0, pyarrow 26.0.1, pandas 3.1.1, numpy 2.4.6.
# Where: `WebDatasetDatasource._read_stream` in ray/data/_internal/datasource/webdataset_datasource.py takes the
#   element out of every list of one.
# Who meets it: pairs in tars with the votes of several people, of which some have one; written by webdataset or by Ray's
#   own write_webdataset.
# Guess that was wrong: what JSON holds comes back.
# Instead: decoder=None, and parse the bytes in a map.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "ray[data]==2.60.0" numpy==2.4.6 pyarrow==26.0.1 pandas==3.1.1
cd "$folder"
export RAY_USAGE_STATS_ENABLED=0
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import io
import logging
import tarfile

import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
logging.getLogger("ray.data").setLevel(logging.ERROR)


def read(name, votes):
    """Write a tar of one sample with its votes, and return the votes that Ray reads."""
    with tarfile.open(name, "w") as tar:
        entry = tarfile.TarInfo("a.votes.json")
        entry.size = len(votes)
        tar.addfile(entry, io.BytesIO(votes))
    return ray.data.read_webdataset(name).take_all()[0]["votes.json"]


one, two = read("one.tar", b"[1]"), read("two.tar", b"[1, 0]")
ray.shutdown()
print(f"ray {ray.__version__}; votes [1] and [1, 0]")
print("guess: [1] and [1, 0]")
print(f"seen:  {one} and {list(two)}")
if isinstance(one, list) or one != 1 or list(two) != [1, 0]:
    raise SystemExit("the behaviour has changed")
PYTHON
