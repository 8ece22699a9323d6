#!/usr/bin/env bash
# What happens: Ray Data's read_webdataset gives the list of a JSON member as a number where it has one element: votes [1]
#   are read as 1, votes [1, 0] as a list, so in one file two types stand in one column. Ids of 60 bits in members .cls are
#   floats where one sample of the file lacks its id, and lose their last digits.
# Versions: ray 2.60.0, pyarrow 26.0.1, pandas 3.1.1, numpy 2.4.6.
# Where: `WebDatasetDatasource._read_stream` in ray/data/_internal/datasource/webdataset_datasource.py takes the element
#   out of every list of one, and makes a table of 512 samples by pandas' `from_records`.
# Who meets it: pairs in tars with the votes of several people, of which some have one; written by webdataset or by Ray's
#   own write_webdataset.
# Guess that was wrong: what JSON holds comes back.
# Instead: decoder=None, and parse the bytes in a map; ids as text.
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
number = 2**60 + 1


def read(name, members):
    """Write a tar of named members, and read it by Ray."""
    with tarfile.open(name, "w") as tar:
        for member, content in members.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return ray.data.read_webdataset(name).take_all()


one = read("one.tar", {"a.votes.json": b"[1]"})[0]["votes.json"]
two = read("two.tar", {"a.votes.json": b"[1, 0]"})[0]["votes.json"]
whole = read("whole.tar", {"a.txt": b"x", "a.id.cls": str(number).encode()})[0]["id.cls"]
beside = read("beside.tar", {"a.txt": b"x", "a.id.cls": str(number).encode(), "b.txt": b"y"})[0]["id.cls"]
ray.shutdown()
print(f"ray {ray.__version__}; votes [1] and [1, 0], and the id {number}")
print(f"guess: [1], [1, 0], {number}")
print(f"seen:  {one}, {list(two)}; {whole}, and {int(beside)} where the other sample has no id")
if isinstance(one, list) or one != 1 or list(two) != [1, 0] or whole != number or int(beside) == number:
    raise SystemExit("the behaviour has changed")
PYTHON
