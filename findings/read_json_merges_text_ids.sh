#!/usr/bin/env bash
# What happens: pandas.read_json makes numbers of ids that are quoted. Two 20-digit ids that differ in the last digits
#   become one float64, "007" becomes 7, and "12e5" equals "1200000". A file whose ids all begin with a letter keeps them.
# Versions: pandas 3.1.1.
# Where: the parser in pandas/io/json/_json.py tries float64 and then int64 for each column of texts (dtype=True), in
#   lines=True as well.
# Who meets it: rankings as JSON lines with image ids as texts (hashes in digits, snowflakes). Two images become one, and
#   joins with the images' table find nothing.
# Guess that was wrong: 20 digits become unsigned integers, so no id is lost; the others were not thought of.
# Instead: read_json(..., dtype={"image_0_uid": str}), or dtype=False.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pandas==3.1.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import io
import json

import pandas


def read(ids, **options):
    lines = "\n".join(json.dumps({"image_uid": text}) for text in ids)
    return pandas.read_json(io.StringIO(lines), lines=True, **options)["image_uid"]


long_ids = ["12345678901234567890", "12345678901234567891"]
as_read = read(long_ids)
as_text = read(long_ids, dtype={"image_uid": str}).tolist()
zeros = read(["007", "012"]).tolist()
exponent = read(["12e5", "1200000"]).tolist()
print(f"pandas {pandas.__version__}; quoted ids in JSON lines")
print(f"guess: {long_ids} as unsigned integers")
print(f"seen:  {as_read.dtype} {as_read.tolist()}; ['007', '012'] {zeros}; ['12e5', '1200000'] {exponent}")
print(f"       with dtype str {as_text}")
one_id = str(as_read.dtype) == "float64" and as_read.nunique() == 1
if not one_id or zeros != [7, 12] or exponent != [1200000.0, 1200000.0] or as_text != long_ids:
    raise SystemExit("the behaviour has changed")
PYTHON
