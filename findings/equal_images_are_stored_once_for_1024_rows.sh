#!/usr/bin/env bash
# What happens: pyarrow's Parquet writer stores equal images of a column once for the first 1,024 rows of a row group,
#   and again in every row after these. The dictionary's limit of 1 MiB is looked at only between batches of 1,024 rows:
#   the dictionary may grow far beyond it there, and afterwards none is used.
# Versions: pyarrow 26.0.1.
# Where: write_batch_size and dictionary_pagesize_limit of pyarrow.parquet.write_table; ColumnWriterImpl in Arrow's
#   cpp/src/parquet/column_writer.cc.
# Who meets it: pairs of ranked images repeat each image K - 1 times. A trial with few rows shows no cost of that; a
#   large file of the same pairs is several times as large.
# Guess that was wrong: images are far above the limit of 1 MiB, so equal ones are stored in each row from the start.
# Instead: store each image once in a table of its own, or write row groups of at most 1,024 rows, or set
#   dictionary_pagesize_limit to the bytes of the images.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check pyarrow==26.0.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

generator = np.random.default_rng(0)
images = [generator.bytes(20_000) for _ in range(512)]
rows = [image for image in images for _ in range(8)]


def times(count: int, **options: object) -> float:
    """Return the bytes of a file of so many rows, as a multiple of the bytes of its different images."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"jpg": pa.array(rows[:count], pa.binary())}), sink, **options)
    return sink.getvalue().size / (count // 8 * 20_000)


few = times(1024)
many = times(4096)
told = times(4096, dictionary_pagesize_limit=1 << 26)
print(f"pyarrow {pa.__version__}; images of 20 kB, each in 8 rows; bytes of the file over those of its images")
print("guess: 8.0 for 1,024 rows and for 4,096 rows")
print(f"seen:  {few:.1f} for 1,024 rows (2.6 MB of images), {many:.1f} for 4,096 rows, {told:.1f} with a higher limit")
if not (few < 1.1 and many > 4 and told < 1.1):
    raise SystemExit("the behaviour has changed")
PYTHON
